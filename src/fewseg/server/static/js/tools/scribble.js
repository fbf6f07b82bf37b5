/** Scribble: a rough line over the thing; the server proposes the thing's mask. */

import { trace } from "./trace.js";

/** @typedef {import("../types.js").Point} Point */

const MOST = 200; // points that are sent

export class ScribbleTool {
  id = "scribble";
  name = "Scribble";
  key = "s";
  hint = "Scribble over the thing, look at the proposed region, then add it.";
  assists = true;
  /** @type {Point[]} */
  #line = [];
  #drawing = false;

  /** @param {import("../desk.js").Desk} desk */
  constructor(desk) {
    this.desk = desk;
  }

  /** @param {Point} point picture pixels */
  down(point) {
    if (!this.desk.canPaint()) return false;
    this.desk.assist.discard();
    this.#line = [point];
    this.#drawing = true;
    return true;
  }

  /** @param {Point[]} points */
  move(points) {
    this.#line.push(...points);
    this.desk.redrawOver();
  }

  up() {
    this.#drawing = false;
    const every = Math.ceil(this.#line.length / MOST);
    const scribble = this.#line.filter((_, index) => index % every === 0).map(({ x, y }) => this.desk.inside([x, y]));
    this.desk.assist.ask({ scribble, mode: "grow" });
  }

  cancel() {
    this.#line = [];
    this.#drawing = false;
    this.desk.redrawOver();
  }

  leave() {
    this.cancel();
  }

  /** @param {CanvasRenderingContext2D} context @param {import("../view.js").View} view */
  draw(context, view) {
    if (this.#line.length && (this.#drawing || this.desk.region || this.desk.assist.asking)) {
      trace(context, this.#line.map((point) => view.toStage(point)), false);
    }
  }
}
