/** Draws masks: a light fill and a crisp edge of constant width at every zoom. */

import { canvas } from "./masks.js";

const AROUND = [[-1, 0], [1, 0], [0, -1], [0, 1], [-0.7, -0.7], [0.7, -0.7], [-0.7, 0.7], [0.7, 0.7]];

/** @type {HTMLCanvasElement|null} reused for every edge */
let scratch = null;

/**
 * @typedef {{x: number, y: number, width: number, height: number}} Place in canvas pixels
 *
 * @param {CanvasRenderingContext2D} context
 * @param {CanvasImageSource} mask alpha is the mask, in its colour
 * @param {Place} place
 * @param {{fill: number, edge: number, colour?: string}} style opacity of the fill, width of the edge in canvas pixels
 *   (0: none), colour of the edge where it is not the mask's
 */
export function drawMask(context, mask, place, { fill, edge, colour }) {
  context.globalAlpha = fill;
  context.drawImage(mask, place.x, place.y, place.width, place.height);
  context.globalAlpha = 1;
  if (edge) context.drawImage(edgeOf(context.canvas, mask, place, edge, colour), 0, 0);
}

/** @param {HTMLCanvasElement} like @param {CanvasImageSource} mask @param {Place} place @param {number} width @param {string} [colour] */
function edgeOf(like, mask, place, width, colour) {
  scratch ??= canvas(1, 1);
  if (scratch.width !== like.width || scratch.height !== like.height) {
    scratch.width = like.width;
    scratch.height = like.height;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (scratch.getContext("2d"));
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, scratch.width, scratch.height);
  for (const [dx, dy] of AROUND) {
    context.drawImage(mask, place.x + dx * width, place.y + dy * width, place.width, place.height);
  }
  context.globalCompositeOperation = "destination-out";
  context.drawImage(mask, place.x, place.y, place.width, place.height);
  if (colour) {
    context.globalCompositeOperation = "source-in";
    context.fillStyle = colour;
    context.fillRect(0, 0, scratch.width, scratch.height);
  }
  return scratch;
}
