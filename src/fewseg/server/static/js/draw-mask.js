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
 * @param {{fill: number, edge: number, colour?: string, hatched?: boolean}} style opacity of the fill, width of the edge in
 *   canvas pixels (0: none), colour of the edge where it is not the mask's, whether the fill is striped: nearly found
 */
export function drawMask(context, mask, place, { fill, edge, colour, hatched }) {
  context.globalAlpha = fill;
  if (hatched) context.drawImage(hatch(context.canvas, mask, place), 0, 0);
  else context.drawImage(mask, place.x, place.y, place.width, place.height);
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

/** The mask in stripes. @param {HTMLCanvasElement} like @param {CanvasImageSource} mask @param {Place} place */
function hatch(like, mask, place) {
  const striped = canvas(like.width, like.height);
  const context = /** @type {CanvasRenderingContext2D} */ (striped.getContext("2d"));
  context.drawImage(mask, place.x, place.y, place.width, place.height);
  context.globalCompositeOperation = "destination-in";
  context.lineWidth = 5;
  context.beginPath();
  for (let x = -like.height; x < like.width; x += 12) {
    context.moveTo(x, like.height);
    context.lineTo(x + like.height, 0);
  }
  context.stroke();
  return striped;
}
