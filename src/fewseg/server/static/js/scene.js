/** Draws the open image: its pixels, the uncertainty map, the masks, the proposed region. */

import { drawMask } from "./draw-mask.js";

const HATCH = 8; // CSS pixels between the stripes of a proposed region

/**
 * @typedef {Object} Shown
 * @property {CanvasImageSource|null} pixels
 * @property {{width: number, height: number}} image
 * @property {import("./view.js").View} view
 * @property {import("./layer.js").MaskLayer[]} layers in drawing order, the active one last
 * @property {number|null} active
 * @property {CanvasImageSource|null} uncertainty
 * @property {{bitmap: ImageBitmap}|null} proposal
 * @property {number} opacity
 * @property {boolean} masks
 * @property {boolean} moving whether the image moves: edges are left out then, for the frame rate
 */

export class Scene {
  /** @type {CanvasPattern|null} */
  #stripes = null;

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  }

  /** @param {{width: number, height: number}} stage CSS pixels @param {number} density device pixels each */
  resize(stage, density) {
    this.density = density;
    this.canvas.width = Math.max(1, Math.round(stage.width * density));
    this.canvas.height = Math.max(1, Math.round(stage.height * density));
  }

  /** @param {Shown} shown */
  draw(shown) {
    const { context } = this;
    const density = this.density ?? 1;
    const { view, image } = shown;
    const place = { x: view.x * density, y: view.y * density, width: image.width * view.scale * density, height: image.height * view.scale * density };
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.imageSmoothingEnabled = view.scale * density < 3;
    if (shown.pixels) context.drawImage(shown.pixels, place.x, place.y, place.width, place.height);
    if (shown.uncertainty) {
      context.globalAlpha = 0.85;
      context.drawImage(shown.uncertainty, place.x, place.y, place.width, place.height);
      context.globalAlpha = 1;
    }
    if (shown.masks) {
      for (const layer of shown.layers) {
        if (!layer.visible) continue;
        const active = layer.label === shown.active;
        const edge = shown.moving ? 0 : (active ? 2 : 1.25) * density;
        drawMask(context, layer.canvas, place, { fill: shown.opacity * (active ? 1 : 0.8), edge, hatched: layer.tentative });
      }
    }
    if (shown.proposal) this.#drawProposal(shown.proposal.bitmap, place, density);
  }

  /** @param {ImageBitmap} bitmap @param {import("./draw-mask.js").Place} place @param {number} density */
  #drawProposal(bitmap, place, density) {
    const striped = document.createElement("canvas");
    striped.width = this.canvas.width;
    striped.height = this.canvas.height;
    const context = /** @type {CanvasRenderingContext2D} */ (striped.getContext("2d"));
    context.drawImage(bitmap, place.x, place.y, place.width, place.height);
    context.globalCompositeOperation = "source-in";
    context.fillStyle = this.#stripes ??= /** @type {CanvasPattern} */ (context.createPattern(stripes(HATCH * density), "repeat"));
    context.fillRect(0, 0, striped.width, striped.height);
    this.context.drawImage(striped, 0, 0);
    drawMask(this.context, bitmap, place, { fill: 0, edge: 3 * density, colour: "#111" });
    drawMask(this.context, bitmap, place, { fill: 0.35, edge: 2 * density, colour: "#fff" });
  }
}

/** @param {number} size @returns {HTMLCanvasElement} a tile of diagonal stripes */
function stripes(size) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = size;
  const context = /** @type {CanvasRenderingContext2D} */ (tile.getContext("2d"));
  context.strokeStyle = "rgba(255, 255, 255, 0.75)";
  context.lineWidth = size / 5;
  for (const shift of [-size, 0, size]) {
    context.beginPath();
    context.moveTo(shift, size);
    context.lineTo(shift + size, 0);
    context.stroke();
  }
  return tile;
}
