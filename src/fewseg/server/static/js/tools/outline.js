/** Outline: click on a piece of the mask, then drag its corners; a click on the line adds one, Alt-click removes one. */

import { distanceTo, outlineOf, pieceAt, simplified } from "../pieces.js";
import { trace } from "./trace.js";

/** @typedef {import("../types.js").Point} Point */

const REACH = 11; // stage pixels around a corner, or a line
const TOLERANCE = 1.5; // stage pixels between the mask's edge and its outline

export class OutlineTool {
  id = "outline";
  name = "Outline";
  key = "o";
  hint = "Click on a piece of the mask, then drag its corners. A click on the line adds a corner, Alt-click removes one.";
  /** @type {Point[]} image pixels */
  #corners = [];
  /** @type {Point[]} before the corner that is dragged moved */
  #before = [];
  #dragged = -1;
  #applying = false;

  /** @param {import("../canvas-controller.js").CanvasController} controller */
  constructor(controller) {
    this.controller = controller;
    controller.addEventListener("history", () => !this.#applying && this.leave()); // the mask has changed
  }

  /** @param {Point} point image pixels @param {{altKey?: boolean, button?: number}} event */
  down(point, event) {
    if (!this.controller.canPaint()) return false;
    const reach = REACH / this.controller.view.scale;
    this.#before = this.#corners;
    this.#dragged = this.#corners.findIndex((corner) => Math.hypot(corner.x - point.x, corner.y - point.y) < reach);
    if (this.#dragged >= 0 && (event.altKey || event.button === 2)) {
      if (this.#corners.length > 3) this.#corners = this.#corners.filter((_, i) => i !== this.#dragged);
      return true;
    }
    const line = this.#dragged < 0 ? this.#corners.findIndex((a, i) => distanceTo(point, a, this.#corners[(i + 1) % this.#corners.length]) < reach) : -1;
    if (line >= 0) {
      this.#corners = this.#corners.toSpliced(line + 1, 0, point);
      this.#dragged = line + 1;
    } else if (this.#dragged < 0) this.#select(point);
    this.controller.redrawOverlay();
    return true;
  }

  /** @param {Point[]} points */
  move(points) {
    if (this.#dragged < 0) return;
    this.#corners = this.#corners.with(this.#dragged, points[points.length - 1]);
    this.controller.redrawOverlay();
  }

  up() {
    if (this.#dragged < 0 || this.#corners === this.#before) return;
    this.#dragged = -1;
    this.#applying = true;
    const layer = this.controller.beginEdit();
    layer?.reshape(this.#before, this.#corners);
    this.controller.endEdit();
    this.#applying = false;
    this.controller.redrawOverlay();
  }

  cancel() {
    if (this.#dragged >= 0) this.#corners = this.#before;
    this.#dragged = -1;
    this.controller.redrawOverlay();
  }

  leave() {
    this.#corners = this.#before = [];
    this.#dragged = -1;
    this.controller.redrawOverlay();
  }

  /** @param {string} key @returns {boolean} whether this tool handles it */
  press(key) {
    if (key !== "Escape" || !this.#corners.length) return false;
    this.leave();
    return true;
  }

  /** @param {CanvasRenderingContext2D} context @param {import("../view.js").View} view */
  draw(context, view) {
    if (!this.#corners.length) return;
    const points = this.#corners.map((corner) => view.toStage(corner));
    trace(context, points, true);
    context.fillStyle = "#fff";
    context.strokeStyle = "#111";
    context.lineWidth = 1.5;
    for (const { x, y } of points) {
      context.beginPath();
      context.arc(x, y, 4.5, 0, 2 * Math.PI);
      context.fill();
      context.stroke();
    }
  }

  /** The outline of the piece at a point. @param {Point} point image pixels */
  #select(point) {
    const { layer, view } = this.controller;
    this.#corners = [];
    if (!layer || layer.absent || !layer.ready) return;
    const { scale, canvas } = layer;
    const [x, y] = this.controller.inside([point.x, point.y]);
    const mask = layer.pixels();
    const at = Math.floor(y * scale) * canvas.width + Math.floor(x * scale);
    if (!mask[at]) return;
    const corners = outlineOf(pieceAt(mask, canvas.width, at), canvas.width);
    this.#corners = simplified(corners, (TOLERANCE * scale) / view.scale + 0.75).map((corner) => ({ x: corner.x / scale, y: corner.y / scale }));
  }
}
