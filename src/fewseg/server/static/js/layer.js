/** One label's mask of the open image: a canvas in the label's colour whose alpha is the mask. */

import { canvas } from "./masks.js";

/** @typedef {import("./types.js").Point} Point */
/** @typedef {{layer: MaskLayer, x: number, y: number, before: HTMLCanvasElement, after: HTMLCanvasElement}} Change */

export class MaskLayer {
  visible = true;
  /** Whether the label is predicted absent: its mask is hidden, and painting starts with an empty one. */
  absent = false;
  /** Whether the user has switched on the mask of an absent label. */
  forceVisible = false;
  /** Whether the mask of an absent label is shown because the user asked for it. */
  tentative = false;
  /** The revision of the mask that is not shown, where painting started empty. */
  base = 0;
  /** The revision of a saved mask whose event has not arrived yet; 0 when there is none. */
  awaitedRevision = 0;
  /** The revision being loaded, 0 when there is none. */
  loading = 0;
  /** The revision loaded or saved last; -1: none yet, -2: a draft or started empty, 0: no mask. */
  revision = -1;
  /** Whether the canvas has shown the current mask. */
  ready = false;
  /** Whether the image was an example of the label before the history's first step. */
  example = true;
  /** @type {{left: number, top: number, right: number, bottom: number}|null} bounds of the edit in progress */
  #touched = null;
  /** @type {HTMLCanvasElement|null} the mask before the edit in progress */
  #before = null;

  /** @param {number} label @param {string} colour @param {number} width @param {number} height @param {number} scale layer pixels an image pixel */
  constructor(label, colour, width, height, scale) {
    this.label = label;
    this.colour = colour;
    this.scale = scale;
    this.canvas = canvas(width, height);
    this.context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
  }

  get editing() {
    return this.#before !== null;
  }

  /** @param {CanvasImageSource|null} mask replaces the whole mask */
  replace(mask) {
    this.ready = true;
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (mask) this.context.drawImage(mask, 0, 0, this.canvas.width, this.canvas.height);
  }

  /** @param {string} colour */
  recolour(colour) {
    this.colour = colour;
    this.context.globalCompositeOperation = "source-in";
    this.context.fillStyle = colour;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.context.globalCompositeOperation = "source-over";
  }

  begin() {
    this.#before = canvas(this.canvas.width, this.canvas.height);
    this.#before.getContext("2d")?.drawImage(this.canvas, 0, 0);
    this.#touched = null;
  }

  /** @param {Point[]} points image pixels @param {number} width image pixels @param {boolean} erase */
  stroke(points, width, erase) {
    this.#draw(erase, (context) => {
      context.lineWidth = width * this.scale;
      context.lineCap = context.lineJoin = "round";
      context.strokeStyle = this.colour;
      context.beginPath();
      for (const { x, y } of points) context.lineTo(x * this.scale, y * this.scale);
      if (points.length === 1) context.lineTo(points[0].x * this.scale + 0.01, points[0].y * this.scale);
      context.stroke();
    });
    this.#touch(points, width / 2);
  }

  /** @param {Point[]} corners image pixels @param {boolean} erase */
  fill(corners, erase) {
    this.#draw(erase, (context) => {
      context.fillStyle = this.colour;
      context.beginPath();
      for (const { x, y } of corners) context.lineTo(x * this.scale, y * this.scale);
      context.fill();
    });
    this.#touch(corners, 1);
  }

  /** Changes the mask pixel by pixel. @param {(mask: Uint8Array, width: number) => void} action gets 0 and 1, row by row */
  repaint(action) {
    const { width, height } = this.canvas;
    const mask = this.pixels();
    action(mask, width);
    const image = this.context.createImageData(width, height);
    const words = new Uint32Array(image.data.buffer);
    const value = parseInt(this.colour.slice(1), 16);
    const opaque = (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >> 16)) >>> 0;
    for (let i = 0; i < mask.length; i++) words[i] = mask[i] ? opaque : 0;
    this.context.putImageData(image, 0, 0);
    this.#touch([{ x: 0, y: 0 }, { x: width / this.scale, y: height / this.scale }], 0);
  }

  /** The mask as 0 and 1, row by row. @returns {Uint8Array} */
  pixels() {
    const { data } = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    const mask = new Uint8Array(data.length / 4);
    for (let i = 0; i < mask.length; i++) mask[i] = data[4 * i + 3] >= 128 ? 1 : 0;
    return mask;
  }

  /** Changes an outline: what only the new polygon covers is added, what only the old one covers is removed. @param {Point[]} before image pixels @param {Point[]} after */
  reshape(before, after) {
    const path = new Path2D();
    const [old, fresh] = [before, after].map((corners) => {
      const one = new Path2D();
      corners.forEach(({ x, y }, index) => one[index ? "lineTo" : "moveTo"](x * this.scale, y * this.scale));
      one.closePath();
      path.addPath(one);
      return one;
    });
    for (const [clip, erase] of /** @type {[Path2D, boolean][]} */ ([[fresh, false], [old, true]])) {
      this.#draw(erase, (context) => {
        context.save();
        context.clip(clip);
        context.fillStyle = this.colour;
        context.fill(path, "evenodd");
        context.restore();
      });
    }
    this.#touch([...before, ...after], 1);
  }

  /** @param {CanvasImageSource} mask in the layer's colour @param {boolean} erase */
  blend(mask, erase) {
    this.#draw(erase, (context) => context.drawImage(mask, 0, 0, this.canvas.width, this.canvas.height));
    const { width, height } = this.canvas;
    this.#touch([{ x: 0, y: 0 }, { x: width / this.scale, y: height / this.scale }], 0);
  }

  /** Ends the edit. @returns {Change|null} what it changed, for the history */
  end() {
    const before = this.#before;
    const touched = this.#touched;
    this.#before = null;
    if (!before || !touched) return null;
    const x = Math.max(0, Math.floor(touched.left));
    const y = Math.max(0, Math.floor(touched.top));
    const width = Math.min(this.canvas.width, Math.ceil(touched.right)) - x;
    const height = Math.min(this.canvas.height, Math.ceil(touched.bottom)) - y;
    if (width <= 0 || height <= 0) return null;
    const piece = (/** @type {HTMLCanvasElement} */ source) => {
      const made = canvas(width, height);
      made.getContext("2d")?.drawImage(source, -x, -y);
      return made;
    };
    return { layer: this, x, y, before: piece(before), after: piece(this.canvas) };
  }

  /** Reverts the edit in progress. */
  cancel() {
    if (this.#before) this.replace(this.#before);
    this.#before = null;
  }

  /** @param {Change} change @param {"before"|"after"} which */
  restore(change, which) {
    const piece = change[which];
    this.context.clearRect(change.x, change.y, piece.width, piece.height);
    this.context.drawImage(piece, change.x, change.y);
    this.recolour(this.colour); // the colour may have changed since
  }

  /** @param {boolean} erase @param {(context: CanvasRenderingContext2D) => void} action */
  #draw(erase, action) {
    this.context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    action(this.context);
    this.context.globalCompositeOperation = "source-over";
  }

  /** @param {Point[]} points image pixels @param {number} reach image pixels around them */
  #touch(points, reach) {
    const edge = reach * this.scale + 2;
    for (const point of points) {
      const x = point.x * this.scale;
      const y = point.y * this.scale;
      const t = (this.#touched ??= { left: x, top: y, right: x, bottom: y });
      t.left = Math.min(t.left, x - edge);
      t.top = Math.min(t.top, y - edge);
      t.right = Math.max(t.right, x + edge);
      t.bottom = Math.max(t.bottom, y + edge);
    }
  }
}
