/** Box: drag a rectangle around an object; the server proposes the object's mask. */

import { trace } from "./trace.js";

/** @typedef {import("../types.js").Point} Point */

const MIN_SIDE = 4; // stage pixels; smaller boxes are ignored

export class BoxTool {
  id = "box";
  name = "Box";
  key = "r";
  hint = "Drag a box around the object, check the proposed region, then add it.";
  assists = true;
  /** @type {Point|null} */
  #from = null;
  /** @type {Point|null} */
  #to = null;

  /** @param {import("../canvas-controller.js").CanvasController} controller */
  constructor(controller) {
    this.controller = controller;
  }

  /** @param {Point} point image pixels */
  down(point) {
    if (!this.controller.canPaint()) return false;
    this.controller.assist.discard();
    this.#from = this.#to = point;
    return true;
  }

  /** @param {Point[]} points */
  move(points) {
    this.#to = points[points.length - 1];
    this.controller.redrawOverlay();
  }

  up() {
    const [a, b] = [this.#from, this.#to];
    this.#from = this.#to = null;
    this.controller.redrawOverlay();
    if (!a || !b || Math.min(Math.abs(a.x - b.x), Math.abs(a.y - b.y)) * this.controller.view.scale < MIN_SIDE) return;
    const box = [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
    this.controller.assist.request({ box: this.controller.inside(box), mode: "superpixel" });
  }

  cancel() {
    this.#from = this.#to = null;
    this.controller.redrawOverlay();
  }

  leave() {
    this.cancel();
  }

  /** @param {CanvasRenderingContext2D} context @param {import("../view.js").View} view */
  draw(context, view) {
    if (!this.#from || !this.#to) return;
    const a = view.toStage(this.#from);
    const b = view.toStage(this.#to);
    trace(context, [a, { x: b.x, y: a.y }, b, { x: a.x, y: b.y }], true);
  }
}
