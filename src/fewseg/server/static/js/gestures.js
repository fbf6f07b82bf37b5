/** Pointers on the stage: one paints, two pinch, space or the middle button drags, the wheel zooms. */

/** @typedef {import("./types.js").Point} Point stage pixels here */

/**
 * @typedef {Object} Hands what gestures move
 * @property {(at: Point, event: PointerEvent) => boolean} down false: nothing to draw, do not follow the pointer
 * @property {(points: Point[], event: PointerEvent) => void} move
 * @property {(at: Point, event: PointerEvent) => void} up
 * @property {() => void} cancel a second finger came, or the system took the pointer
 * @property {(at: Point|null) => void} hover
 * @property {(dx: number, dy: number) => void} pan
 * @property {(factor: number, at: Point) => void} zoom
 * @property {() => void} rest a move of the view has ended
 * @property {() => boolean} pans whether one pointer drags the view
 */

/** @param {HTMLElement} stage @param {Hands} hands */
export function followPointers(stage, hands) {
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
      if (doing === "tool") hands.cancel();
      doing = "pinch";
    } else if (pointers.size === 1) {
      if (event.button === 1 || hands.pans()) doing = "pan";
      else if (event.button === 0 || event.button === 2) doing = hands.down(at(event), event) ? "tool" : "none";
    }
    stage.classList.toggle("dragging", doing === "pan");
  });

  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    const now = at(event);
    if (event.pointerType !== "touch") hands.hover(now);
    if (!before) return;
    if (doing === "pinch") pinch(pointers, event.pointerId, now, hands);
    pointers.set(event.pointerId, now);
    if (doing === "pan") hands.pan(now.x - before.x, now.y - before.y);
    if (doing === "tool") {
      const all = event.getCoalescedEvents?.() ?? [];
      hands.move(all.length ? all.map(at) : [now], event);
    }
  });

  const end = (/** @type {PointerEvent} */ event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (doing === "tool") event.type === "pointerup" ? hands.up(at(event), event) : hands.cancel();
    else if (doing !== "none") hands.rest();
    if (!pointers.size || doing === "tool") doing = "none";
    stage.classList.remove("dragging");
  };
  stage.addEventListener("pointerup", end);
  stage.addEventListener("pointercancel", end);
  stage.addEventListener("pointerleave", () => hands.hover(null));
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 30 : 1;
    if (event.shiftKey) hands.pan(-(event.deltaX + event.deltaY) * lines, 0);
    else hands.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0018)), at(event));
    clearTimeout(wheelRest);
    wheelRest = setTimeout(hands.rest, 120);
  }, { passive: false });
}

/** @param {Map<number, Point>} pointers @param {number} moved @param {Point} now @param {Hands} hands */
function pinch(pointers, moved, now, hands) {
  const other = [...pointers].find(([id]) => id !== moved)?.[1];
  const before = pointers.get(moved);
  if (!other || !before) return;
  const middle = { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 };
  hands.pan((now.x - before.x) / 2, (now.y - before.y) / 2);
  const span = Math.hypot(before.x - other.x, before.y - other.y);
  if (span > 4) hands.zoom(Math.hypot(now.x - other.x, now.y - other.y) / span, middle);
}
