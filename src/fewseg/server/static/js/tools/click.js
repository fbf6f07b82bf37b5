/** Click assistance: press on a thing, see the region that the server proposes, press more to refine it, then add it. */

/** @typedef {import("../types.js").Point} Point */

export class ClickTool {
  assists = true;
  /** @type {[number, number, 0|1][]} */
  #points = [];

  /** @param {import("../desk.js").Desk} desk @param {"superpixel"|"grow"} mode */
  constructor(desk, mode) {
    this.desk = desk;
    this.mode = mode;
    this.id = mode;
    this.name = mode === "grow" ? "Grow" : "Click";
    this.key = mode === "grow" ? "g" : "w";
    this.hint = mode === "grow"
      ? "Press on a thing: the region grows from there as far as it looks alike. Alt-press keeps a place out."
      : "Press on a thing to pick the patch under it; press more patches to join them. Alt-press keeps a place out.";
  }

  /** @param {Point} point picture pixels @param {{altKey?: boolean, button?: number}} event */
  down(point, event) {
    if (!this.desk.canPaint()) return false;
    if (!this.desk.region) this.#points = [];
    const [x, y] = this.desk.inside([point.x, point.y]);
    this.#points.push([x, y, event.altKey || event.button === 2 ? 0 : 1]);
    return true;
  }

  move() {}

  up() {
    this.desk.assist.ask({ points: this.#points, mode: this.mode });
  }

  cancel() {
    this.#points.pop();
  }

  leave() {
    this.#points = [];
  }

  /** @param {CanvasRenderingContext2D} context @param {import("../view.js").View} view */
  draw(context, view) {
    if (!this.desk.region && !this.desk.assist.asking) return;
    for (const [px, py, wanted] of this.#points) {
      const { x, y } = view.toStage({ x: px, y: py });
      context.beginPath();
      context.arc(x, y, 5, 0, 2 * Math.PI);
      context.fillStyle = wanted ? "#fff" : "#e03131";
      context.fill();
      context.lineWidth = 1.5;
      context.strokeStyle = "#111";
      context.stroke();
    }
  }
}
