/** Painting without a pointer: with the focus on the picture, arrows move a cross and Enter presses there. */

const STEP = 8; // stage pixels
const FAR = 48; // with Shift

/** @type {Record<string, [number, number]>} */
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** @param {import("./desk.js").Desk} desk @param {KeyboardEvent} event @returns {boolean} whether the key was meant for the pen */
export function pressStage(desk, event) {
  const { picture } = desk;
  if (!picture) return false;
  const move = MOVES[event.key];
  if (move) {
    walk(desk, move, event.shiftKey ? FAR : STEP);
    return true;
  }
  if (event.key === "Enter" && desk.pen) {
    if (desk.region) desk.assist.accept(false);
    else press(desk);
    return true;
  }
  if (event.key === "Escape" && desk.pen) {
    desk.liftPen();
    if (!desk.region) desk.pen = null;
    desk.assist.discard();
    desk.redrawOver();
    return true;
  }
  return false;
}

/** @param {import("./desk.js").Desk} desk @param {[number, number]} move @param {number} pixels */
function walk(desk, [dx, dy], pixels) {
  const { width, height } = /** @type {import("./types.js").Picture} */ (desk.picture);
  const step = pixels / desk.view.scale;
  const from = desk.pen ?? { x: width / 2, y: height / 2 };
  const inside = (/** @type {number} */ value, /** @type {number} */ most) => Math.min(most, Math.max(0, value));
  desk.pen = desk.pen ? { x: inside(from.x + dx * step, width), y: inside(from.y + dy * step, height) } : from;
  if (desk.penDown) desk.tool.move([desk.pen]);
  desk.tool.hover?.(desk.pen);
  desk.redrawOver();
}

/** Drawing tools: pen down, pen up. Tools that take presses: one press. @param {import("./desk.js").Desk} desk */
function press(desk) {
  const at = /** @type {import("./types.js").Point} */ (desk.pen);
  const drags = desk.tool.round || desk.tool.id === "box" || desk.tool.id === "scribble";
  if (desk.penDown) {
    desk.liftPen();
  } else if (desk.tool.down(at, {})) {
    if (drags) desk.penDown = true;
    else desk.tool.up();
  }
  desk.redrawOver();
}
