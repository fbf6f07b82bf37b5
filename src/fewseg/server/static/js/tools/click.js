/** Click: click on an object, see the region that the server proposes, refine it by more clicks, then add it. */

/** @typedef {import("../types.js").Point} Point */

export class ClickTool {
  assists = true;
  /** @type {[number, number, 0|1][]} */
  #points = [];

  /** @param {import("../canvas-controller.js").CanvasController} controller @param {"superpixel"|"grow"} mode */
  constructor(controller, mode) {
    this.controller = controller;
    this.mode = mode;
    this.id = mode;
    this.name = mode === "grow" ? "Grow" : "Click";
    this.key = mode === "grow" ? "g" : "w";
    this.hint = mode === "grow"
      ? "Click on an object: the region grows over similar pixels. Alt-click excludes a place."
      : "Click on an object to select the patch there; further clicks add patches. Alt-click excludes a place.";
  }

  /** @param {Point} point image pixels @param {{altKey?: boolean, button?: number}} event */
  down(point, event) {
    if (!this.controller.canPaint()) return false;
    if (!this.controller.proposal) this.#points = [];
    const [x, y] = this.controller.inside([point.x, point.y]);
    this.#points.push([x, y, event.altKey || event.button === 2 ? 0 : 1]);
    return true;
  }

  move() {}

  up() {
    this.controller.assist.request({ points: this.#points, mode: this.mode });
  }

  cancel() {
    this.#points.pop();
  }

  leave() {
    this.#points = [];
  }

  /** @param {CanvasRenderingContext2D} context @param {import("../view.js").View} view */
  draw(context, view) {
    if (!this.controller.proposal && !this.controller.assist.pending) return;
    for (const [px, py, inside] of this.#points) {
      const { x, y } = view.toStage({ x: px, y: py });
      context.beginPath();
      context.arc(x, y, 5, 0, 2 * Math.PI);
      context.fillStyle = inside ? "#fff" : "#e03131";
      context.fill();
      context.lineWidth = 1.5;
      context.strokeStyle = "#111";
      context.stroke();
    }
  }
}
