/** Polygon: corners one by one; the first corner, a double click or Enter closes it. */

import { trace } from "./trace.js";

/** @typedef {import("../types.js").Point} Point */

const CLOSING_DISTANCE = 12; // stage pixels: a corner this near to the first closes the polygon

export class PolygonTool {
  id = "polygon";
  name = "Polygon";
  key = "p";
  hint = "Click every corner; the first corner, a double click or Enter closes the polygon, Backspace removes a corner.";
  /** @type {Point[]} */
  corners = [];
  /** @type {Point|null} */
  #hover = null;

  /** @param {import("../canvas-controller.js").CanvasController} controller */
  constructor(controller) {
    this.controller = controller;
  }

  /** @param {Point} point image pixels */
  down(point) {
    if (!this.controller.canPaint()) return false;
    this.corners.push(point);
    this.#hover = point;
    if (!this.#closes(point)) this.controller.redrawOverlay();
    return true;
  }

  /** @param {Point[]} points the corner under the finger follows it */
  move(points) {
    this.corners[this.corners.length - 1] = points[points.length - 1];
    this.controller.redrawOverlay();
  }

  up() {
    const last = this.corners[this.corners.length - 1];
    if (last && this.#closes(last)) {
      this.corners.pop();
      this.finish();
    }
    this.controller.emit("proposal");
  }

  cancel() {
    this.corners.pop();
    this.controller.redrawOverlay();
  }

  leave() {
    this.corners = [];
  }

  /** @param {Point} point */
  hover(point) {
    this.#hover = point;
    if (this.corners.length) this.controller.redrawOverlay();
  }

  /** @param {string} key @returns {boolean} whether this tool handles it */
  press(key) {
    if (!this.corners.length) return false;
    if (key === "Enter") this.finish();
    else if (key === "Backspace") this.corners.pop();
    else if (key === "Escape") this.corners = [];
    else return false;
    this.controller.redrawOverlay();
    this.controller.emit("proposal");
    return true;
  }

  finish() {
    if (this.corners.length >= 3) {
      const layer = this.controller.beginEdit();
      if (!layer) return; // the corners stay
      layer.fill(this.corners, this.controller.erasing);
      this.controller.endEdit();
    }
    this.corners = [];
    this.controller.redrawOverlay();
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

  /** @param {Point} point @returns {boolean} whether it lies on the first or on the last corner */
  #closes(point) {
    const others = this.corners.slice(0, -1);
    if (others.length < 3) return false;
    const near = (/** @type {Point} */ other, /** @type {number} */ reach) =>
      Math.hypot(other.x - point.x, other.y - point.y) * this.controller.view.scale < reach;
    return near(others[0], CLOSING_DISTANCE) || near(others[others.length - 1], 4);
  }
}
