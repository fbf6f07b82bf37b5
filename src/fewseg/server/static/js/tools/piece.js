/** Piece: a click removes a connected piece of the mask, or fills a hole. */

import { fillHoles, togglePiece } from "../pieces.js";

/** @typedef {import("../types.js").Point} Point */

export class PieceTool {
  id = "piece";
  name = "Piece";
  key = "d";
  hint = "Click on a piece of the mask to remove it, or into a hole to fill it.";
  /** @type {Point|null} */
  #at = null;

  /** @param {import("../canvas-controller.js").CanvasController} controller */
  constructor(controller) {
    this.controller = controller;
  }

  /** @param {Point} point image pixels */
  down(point) {
    if (!this.controller.canPaint()) return false;
    this.#at = point;
    return true;
  }

  move() {}

  up() {
    const at = this.#at;
    if (!at) return;
    const [x, y] = this.controller.inside([at.x, at.y]);
    this.#edit((mask, width, scale) => togglePiece(mask, width, Math.floor(y * scale) * width + Math.floor(x * scale)));
  }

  /** Fills every hole of the mask. */
  fill() {
    this.#edit((mask, width) => fillHoles(mask, width));
  }

  cancel() {
    this.#at = null;
  }

  leave() {
    this.#at = null;
  }

  draw() {}

  /** @param {(mask: Uint8Array, width: number, scale: number) => void} action */
  #edit(action) {
    const shown = this.controller.layer;
    if (!shown || shown.absent) return; // nothing is shown to change
    const layer = this.controller.beginEdit();
    if (!layer) return;
    const before = layer.pixels();
    const after = before.slice();
    action(after, layer.canvas.width, layer.scale);
    if (after.every((value, i) => value === before[i])) return this.controller.cancelEdit();
    layer.repaint((mask) => mask.set(after));
    this.controller.endEdit();
  }
}
