/** Polygon: corners one by one; the first corner, a double click or Enter closes it. */

import { trace } from "./trace.js";

/** @typedef {import("../types.js").Point} Point */

const CLOSE = 12; // stage pixels to the first corner that close the polygon

export class PolygonTool {
  id = "polygon";
  name = "Polygon";
  key = "p";
  hint = "Press at every corner; the first corner, a double press or Enter closes it, Backspace takes one back.";
  /** @type {Point[]} */
  corners = [];
  /** @type {Point|null} */
  #hover = null;

  /** @param {import("../desk.js").Desk} desk */
  constructor(desk) {
    this.desk = desk;
  }

  /** @param {Point} point picture pixels */
  down(point) {
    if (!this.desk.canPaint()) return false;
    this.corners.push(point);
    this.#hover = point;
    if (!this.#closes(point)) this.desk.redrawOver();
    return true;
  }

  /** @param {Point[]} points the corner under the finger follows it */
  move(points) {
    this.corners[this.corners.length - 1] = points[points.length - 1];
    this.desk.redrawOver();
  }

  up() {
    const last = this.corners[this.corners.length - 1];
    if (last && this.#closes(last)) {
      this.corners.pop();
      this.finish();
    }
    this.desk.say("region");
  }

  cancel() {
    this.corners.pop();
    this.desk.redrawOver();
  }

  leave() {
    this.corners = [];
  }

  /** @param {Point} point */
  hover(point) {
    this.#hover = point;
    if (this.corners.length) this.desk.redrawOver();
  }

  /** @param {string} key @returns {boolean} whether it was meant for this tool */
  press(key) {
    if (!this.corners.length) return false;
    if (key === "Enter") this.finish();
    else if (key === "Backspace") this.corners.pop();
    else if (key === "Escape") this.corners = [];
    else return false;
    this.desk.redrawOver();
    this.desk.say("region");
    return true;
  }

  finish() {
    if (this.corners.length >= 3) {
      const layer = this.desk.beginEdit();
      if (!layer) return; // the corners stay
      layer.fill(this.corners, this.desk.erasing);
      this.desk.endEdit();
    }
    this.corners = [];
    this.desk.redrawOver();
  }

  /** @param {CanvasRenderingContext2D} context @param {import("../view.js").View} view */
  draw(context, view) {
    if (!this.corners.length) return;
    const points = this.corners.map((corner) => view.toStage(corner));
    const path = this.#hover ? [...points, view.toStage(this.#hover)] : points;
    trace(context, path, this.corners.length > 1);
    for (const [index, { x, y }] of points.entries()) {
      context.beginPath();
      context.arc(x, y, index === 0 ? 6 : 4, 0, 2 * Math.PI);
      context.fillStyle = "#fff";
      context.fill();
      context.lineWidth = 1.5;
      context.strokeStyle = "#111";
      context.stroke();
    }
  }

  /** @param {Point} point @returns {boolean} whether it lies on the first corner, or twice at the same place */
  #closes(point) {
    const others = this.corners.slice(0, -1);
    if (others.length < 3) return false;
    const near = (/** @type {Point} */ other, /** @type {number} */ reach) =>
      Math.hypot(other.x - point.x, other.y - point.y) * this.desk.view.scale < reach;
    return near(others[0], CLOSE) || near(others[others.length - 1], 4);
  }
}
