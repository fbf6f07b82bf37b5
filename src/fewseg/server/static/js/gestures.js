/** Pointer gestures on the stage: one paints, two pinch, space or the middle button drags, the wheel zooms. */

/** @typedef {import("./types.js").Point} Point stage pixels here */

/**
 * @typedef {Object} PointerHandlers
 * @property {(at: Point, event: PointerEvent) => boolean} down false: nothing to draw, do not follow the pointer
 * @property {(points: Point[], event: PointerEvent) => void} move
 * @property {(at: Point, event: PointerEvent) => void} up
 * @property {() => void} cancel a second finger came, or the system took the pointer
 * @property {(at: Point|null) => void} hover
 * @property {(dx: number, dy: number) => void} pan
 * @property {(factor: number, at: Point) => void} zoom
 * @property {(step: 1|-1|number) => boolean} size Shift and the wheel; false where the tool has no size
 * @property {() => void} rest a movement of the view has ended
 * @property {() => boolean} pans whether one pointer drags the view
 */

/** @param {HTMLElement} stage @param {PointerHandlers} handlers */
export function followPointers(stage, handlers) {
  /** @type {Map<number, Point>} */
  const pointers = new Map();
  /** @type {"none"|"tool"|"pan"|"pinch"} */
  let doing = "none";
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  let wheelRest;

  const at = (/** @type {MouseEvent} */ event) => {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };

  stage.addEventListener("pointerdown", (event) => {
    if (event.target !== stage && !(event.target instanceof HTMLCanvasElement)) return;
    event.preventDefault();
    /** @type {HTMLElement|null} */ (document.activeElement)?.blur?.();
    stage.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, at(event));
    if (pointers.size === 2) {
      if (doing === "tool") handlers.cancel();
      doing = "pinch";
    } else if (pointers.size === 1) {
      if (event.button === 1 || handlers.pans()) doing = "pan";
      else if (event.button === 0 || event.button === 2) doing = handlers.down(at(event), event) ? "tool" : "none";
    }
    stage.classList.toggle("dragging", doing === "pan");
  });

  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    const now = at(event);
    if (event.pointerType !== "touch") handlers.hover(now);
    if (!before) return;
    if (doing === "pinch") pinch(pointers, event.pointerId, now, handlers);
    pointers.set(event.pointerId, now);
    if (doing === "pan") handlers.pan(now.x - before.x, now.y - before.y);
    if (doing === "tool") {
      const all = event.getCoalescedEvents?.() ?? [];
      handlers.move(all.length ? all.map(at) : [now], event);
    }
  });

  const end = (/** @type {PointerEvent} */ event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (doing === "tool") event.type === "pointerup" ? handlers.up(at(event), event) : handlers.cancel();
    else if (doing !== "none") handlers.rest();
    if (!pointers.size || doing === "tool") doing = "none";
    stage.classList.remove("dragging");
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
  stage.addEventListener("pointerleave", () => handlers.hover(null));
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    if (event.shiftKey && handlers.size(-Math.sign(event.deltaX + event.deltaY))) return;
    if (event.shiftKey) handlers.pan(-(event.deltaX + event.deltaY) * lines, 0);
    else handlers.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), at(event));
    clearTimeout(wheelRest);
    wheelRest = setTimeout(handlers.rest, 120);
  }, { passive: false });
}

/** @param {Map<number, Point>} pointers @param {number} moved @param {Point} now @param {PointerHandlers} handlers */
function pinch(pointers, moved, now, handlers) {
  const other = [...pointers].find(([id]) => id !== moved)?.[1];
  const before = pointers.get(moved);
  if (!other || !before) return;
  const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
  handlers.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
  const span = Math.hypot(before.x - other.x, before.y - other.y);
  if (span > 4) handlers.zoom(Math.hypot(now.x - other.x, now.y - other.y) / span, middle);
}
