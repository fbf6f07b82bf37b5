/** Draws the brush's circle and the keyboard's cross over the image, in stage pixels. */

/** @typedef {import("./types.js").Point} Point */

/** @param {CanvasRenderingContext2D} context @param {Point} at @param {number} radius */
export function ring(context, { x, y }, radius) {
  for (const [width, colour] of /** @type {[number, string][]} */ ([[3, "rgba(0, 0, 0, 0.55)"], [1.5, "#fff"]])) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
  }
}

/** @param {CanvasRenderingContext2D} context @param {Point} at @param {boolean} down */
export function cross(context, { x, y }, down) {
  for (const [width, colour] of /** @type {[number, string][]} */ ([[4, "rgba(0, 0, 0, 0.7)"], [2, down ? "#ffd43b" : "#fff"]])) {
    context.beginPath();
    context.moveTo(x - 12, y);
    context.lineTo(x + 12, y);
    context.moveTo(x, y - 12);
    context.lineTo(x, y + 12);
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
  }
}
