/** Painting by keyboard: with the focus on the image, arrows move a cursor and Enter clicks there. */

const STEP = 8; // stage pixels
const LARGE_STEP = 48; // with Shift

/** @type {Record<string, [number, number]>} */
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** @param {import("./canvas-controller.js").CanvasController} controller @param {KeyboardEvent} event @returns {boolean} whether the key was handled */
export function handleStageKey(controller, event) {
  const { image } = controller;
  if (!image) return false;
  const move = MOVES[event.key];
  if (move) {
    moveCursor(controller, move, event.shiftKey ? LARGE_STEP : STEP);
    return true;
  }
  if (event.key === "Enter" && controller.cursor) {
    if (controller.proposal) controller.assist.accept(false);
    else clickAtCursor(controller);
    return true;
  }
  if (event.key === "Escape" && controller.cursor) {
    controller.releaseCursor();
    if (!controller.proposal) controller.cursor = null;
    controller.assist.discard();
    controller.redrawOverlay();
    return true;
  }
  return false;
}

/** @param {import("./canvas-controller.js").CanvasController} controller @param {[number, number]} move @param {number} pixels */
function moveCursor(controller, [dx, dy], pixels) {
  const { width, height } = /** @type {import("./types.js").ImageEntry} */ (controller.image);
  const step = pixels / controller.view.scale;
  const from = controller.cursor ?? { x: width / 2, y: height / 2 };
  const inside = (/** @type {number} */ value, /** @type {number} */ most) => Math.min(most, Math.max(0, value));
  controller.cursor = controller.cursor ? { x: inside(from.x + dx * step, width), y: inside(from.y + dy * step, height) } : from;
  if (controller.cursorDown) controller.tool.move([controller.cursor]);
  controller.tool.hover?.(controller.cursor);
  controller.redrawOverlay();
}

/** Starts or ends a stroke of a drawing tool, or clicks with the other tools. @param {import("./canvas-controller.js").CanvasController} controller */
function clickAtCursor(controller) {
  const at = /** @type {import("./types.js").Point} */ (controller.cursor);
  const drags = controller.tool.round || controller.tool.id === "box" || controller.tool.id === "scribble";
  if (controller.cursorDown) {
    controller.releaseCursor();
  } else if (controller.tool.down(at, {})) {
    if (drags) controller.cursorDown = true;
    else controller.tool.up();
  }
  controller.redrawOverlay();
}
