/** A line that is visible on every image: white on black. */

/**
 * @param {CanvasRenderingContext2D} context
 * @param {import("../types.js").Point[]} points stage pixels
 * @param {boolean} closed
 */
export function trace(context, points, closed) {
  context.lineJoin = context.lineCap = "round";
  for (const [width, colour] of /** @type {[number, string][]} */ ([[3.5, "rgba(0, 0, 0, 0.65)"], [1.75, "#fff"]])) {
    context.beginPath();
    for (const { x, y } of points) context.lineTo(x, y);
    if (closed) context.closePath();
    context.lineWidth = width;
    context.strokeStyle = colour;
    context.stroke();
  }
}
