/** Scribble: a rough line over an object; the server proposes the object's mask. */

import { trace } from "./trace.js";

/** @typedef {import("../types.js").Point} Point */

const MAX_POINTS = 200; // that are sent

export class ScribbleTool {
  id = "scribble";
  name = "Scribble";
  key = "s";
  hint = "Scribble over the object, check the proposed region, then add it.";
  assists = true;
  /** @type {Point[]} */
  #line = [];
  #drawing = false;

  /** @param {import("../canvas-controller.js").CanvasController} controller */
  constructor(controller) {
    this.controller = controller;
  }

  /** @param {Point} point image pixels */
  down(point) {
    if (!this.controller.canPaint()) return false;
    this.controller.assist.discard();
    this.#line = [point];
    this.#drawing = true;
    return true;
  }

  /** @param {Point[]} points */
  move(points) {
    this.#line.push(...points);
    this.controller.redrawOverlay();
  }

  up() {
    this.#drawing = false;
    const every = Math.ceil(this.#line.length / MAX_POINTS);
    const scribble = this.#line.filter((_, index) => index % every === 0).map(({ x, y }) => this.controller.inside([x, y]));
    this.controller.assist.request({ scribble, mode: "grow" });
  }

  cancel() {
    this.#line = [];
    this.#drawing = false;
    this.controller.redrawOverlay();
  }

  leave() {
    this.cancel();
  }

  /** @param {CanvasRenderingContext2D} context @param {import("../view.js").View} view */
  draw(context, view) {
    if (this.#line.length && (this.#drawing || this.controller.proposal || this.controller.assist.pending)) {
      trace(context, this.#line.map((point) => view.toStage(point)), false);
    }
  }
}
