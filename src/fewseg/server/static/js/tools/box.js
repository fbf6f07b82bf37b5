/** Box: drag a rectangle around a thing; the server proposes the thing's mask. */

import { trace } from "./trace.js";

/** @typedef {import("../types.js").Point} Point */

const LEAST = 4; // stage pixels; shorter drags are slips

export class BoxTool {
  id = "box";
  name = "Box";
  key = "r";
  hint = "Drag a box around the thing, look at the proposed region, then add it.";
  assists = true;
  /** @type {Point|null} */
  #from = null;
  /** @type {Point|null} */
  #to = null;

  /** @param {import("../desk.js").Desk} desk */
  constructor(desk) {
    this.desk = desk;
  }

  /** @param {Point} point picture pixels */
  down(point) {
    if (!this.desk.canPaint()) return false;
    this.desk.assist.discard();
    this.#from = this.#to = point;
    return true;
  }

  /** @param {Point[]} points */
  move(points) {
    this.#to = points[points.length - 1];
    this.desk.redrawOver();
  }

  up() {
    const [a, b] = [this.#from, this.#to];
    this.#from = this.#to = null;
    this.desk.redrawOver();
    if (!a || !b || Math.min(Math.abs(a.x - b.x), Math.abs(a.y - b.y)) * this.desk.view.scale < LEAST) return;
    const box = [Math.min(a.x, b.x), Math.min(a.y, b.y), Math.max(a.x, b.x), Math.max(a.y, b.y)];
    this.desk.assist.ask({ box: this.desk.inside(box), mode: "superpixel" });
  }

  cancel() {
    this.#from = this.#to = null;
    this.desk.redrawOver();
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
