/** The position of the image on the stage: scale and offset, in CSS pixels. */

const MAX_SCALE = 40; // CSS pixels per image pixel

export class View {
  scale = 1;
  x = 0;
  y = 0;
  #fitScale = 1;
  #stage = { width: 1, height: 1 };
  #image = { width: 1, height: 1 };

  /** @param {{width: number, height: number}} image @param {{width: number, height: number}} stage */
  setSizes(image, stage) {
    const wasFitted = Math.abs(this.scale - this.#fitScale) < 1e-9;
    this.#image = image;
    this.#stage = stage;
    const margin = Math.min(24, stage.width / 20);
    this.#fitScale = Math.max(0.001, Math.min((stage.width - 2 * margin) / image.width, (stage.height - 2 * margin) / image.height));
    if (wasFitted) this.fit();
    else this.#keepInside();
  }

  fit() {
    this.scale = this.#fitScale;
    this.x = (this.#stage.width - this.#image.width * this.scale) / 2;
    this.y = (this.#stage.height - this.#image.height * this.scale) / 2;
  }

  /** @param {number} factor @param {import("./types.js").Point} [at] stage pixels that stay where they are */
  zoom(factor, at = { x: this.#stage.width / 2, y: this.#stage.height / 2 }) {
    const scale = Math.min(MAX_SCALE, Math.max(this.#fitScale / 2, this.scale * factor));
    this.x = at.x - ((at.x - this.x) * scale) / this.scale;
    this.y = at.y - ((at.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.#keepInside();
  }

  /** @param {number} dx @param {number} dy stage pixels */
  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.#keepInside();
  }

  /** @param {import("./types.js").Point} point on the stage @returns {import("./types.js").Point} in the image */
  toImage({ x, y }) {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  /** @param {import("./types.js").Point} point in the image @returns {import("./types.js").Point} on the stage */
  toStage({ x, y }) {
    return { x: x * this.scale + this.x, y: y * this.scale + this.y };
  }

  /** Keeps a part of the image on the stage. */
  #keepInside() {
    const rest = 64;
    this.x = Math.min(this.#stage.width - rest, Math.max(rest - this.#image.width * this.scale, this.x));
    this.y = Math.min(this.#stage.height - rest, Math.max(rest - this.#image.height * this.scale, this.y));
  }
}
