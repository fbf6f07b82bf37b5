/** The thumbnail of an image with its masks and a badge: example, confidence or error. */

import { api } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { fitted, decodedMask } from "./masks.js";
import { drawMask } from "./draw-mask.js";
import { isPossible, UNCERTAIN_BELOW } from "./store.js";

/** @typedef {import("./types.js").ImageEntry} ImageEntry */

const SIDE = 480; // longest side of a thumbnail, device pixels

export class Card {
  #mounted = false;
  #drawn = "";

  /** @param {import("./store.js").Store} store @param {ImageEntry} image */
  constructor(store, image) {
    this.store = store;
    this.id = image.id;
    /** @type {HTMLCanvasElement|null} */
    this.overlay = null;
    this.frame = h("div", { class: "card-image" });
    this.foot = h("span", { class: "card-foot" });
    this.element = h(
      "a",
      { class: "card", href: `#/picture/${encodeURIComponent(image.id)}`, "data-id": image.id, draggable: "false", style: `--aspect: ${image.width ? image.width / image.height : 1}` },
      this.frame,
      this.foot,
    );
    this.update();
  }

  get image() {
    return /** @type {ImageEntry} */ (this.store.images.get(this.id));
  }

  /** Loads or unloads the thumbnail. @param {boolean} near on screen or almost */
  mount(near) {
    if (near === this.#mounted) return;
    this.#mounted = near;
    this.#drawn = "";
    if (!near) {
      this.frame.replaceChildren();
      return;
    }
    if (!this.image.width) {
      this.frame.replaceChildren(icon("warning")); // an unreadable file
      return;
    }
    this.overlay = h("canvas", { class: "card-masks" });
    this.frame.classList.remove("broken");
    const image = h("img", { src: api.imageAddress(this.id, SIDE), alt: "", draggable: "false", decoding: "async", onerror: () => this.#broken(image) });
    this.frame.replaceChildren(image, this.overlay);
    this.update();
  }

  /** A sign in place of an image that could not be loaded. @param {HTMLElement} image */
  #broken(image) {
    if (!image.isConnected) return;
    this.frame.classList.add("broken");
    image.replaceWith(icon("warning"));
  }

  /** Loads the thumbnail again that could not be loaded. */
  recover() {
    if (!this.#mounted || !this.frame.classList.contains("broken")) return;
    this.mount(false);
    this.mount(true);
  }

  update() {
    const { image, store } = this;
    if (!image) return;
    this.element.dataset.state = image.state;
    const words = this.#words(image).join(", ");
    this.foot.replaceChildren(h("span", { class: "card-name" }, image.name), ...this.#badges(image), h("span", { class: "visually-hidden" }, words));
    this.element.title = image.error ? `${image.name}: ${image.error}` : image.name;
    if (this.#mounted && this.overlay) this.#draw(image, store.labels);
  }

  /** @param {ImageEntry} image @returns {string[]} what the badges do not say, for screen readers */
  #words(image) {
    const names = (/** @type {number[]} */ ids) => ids.map((id) => this.store.label(id)?.name).filter(Boolean).join(" and ");
    if (image.state === "failed") return [image.error ?? "unknown reason"];
    const words = [];
    if (image.supports.length) words.push(`of ${names(image.supports)}`);
    const present = Object.keys(image.present).filter((id) => image.present[id]).map(Number);
    if (image.state === "done" && present.length) words.push(`shows ${names(present)}`);
    if (image.absent.length) words.push(`no ${names(image.absent)}`);
    if (image.state === "waiting" || image.state === "working") words.push("in progress");
    return words;
  }

  /** @param {ImageEntry} image @returns {Node[]} */
  #badges(image) {
    if (image.state === "failed") return [h("span", { class: "badge failed" }, icon("warning"), "Failed")];
    if (image.supports.length) {
      const dots = image.supports.map((id) => h("span", { class: "dot", style: `--label: ${this.store.label(id)?.colour ?? "#888"}` }));
      return [h("span", { class: "badge example" }, ...dots, "Example")];
    }
    if (image.checked) return [h("span", { class: "badge example" }, icon("check"), image.absent.length && !Object.values(image.present).some(Boolean) ? "Not here" : "Checked")];
    if (image.state !== "done") return [];
    const { filter, label } = this.store.view;
    const asked = this.store.label(label || this.store.active);
    if (filter === "possible" && asked && image.scores[asked.id] !== undefined) return [this.#meter("Presence", image.scores[asked.id], "badge absent", "how probable it is that the label is in the image")];
    const present = Object.values(image.present);
    if (present.length && !present.some(Boolean)) return [h("span", { class: "badge absent", title: "Probably none of the labels is in this image" }, "Absent?")];
    const confidence = label && image.present[label] ? (image.confidences[label] ?? null) : image.confidence;
    if (confidence === null) return [];
    return [this.#meter("Confidence", confidence, confidence < UNCERTAIN_BELOW ? "badge uncertain" : "badge certain", "the expected overlap (IoU) of the mask with the right one; of several masks the least")];
  }

  /** @param {string} name @param {number} value 0..1 @param {string} kind @param {string} meaning */
  #meter(name, value, kind, meaning) {
    const percent = Math.round(100 * value);
    return h("span", { class: kind, title: `${name}: ${meaning}` }, h("span", { class: "meter", style: `--value: ${percent}%` }), h("span", { class: "visually-hidden" }, name), `${percent} %`);
  }

  /** @param {ImageEntry} image @param {import("./types.js").Label[]} labels */
  async #draw(image, labels) {
    const near = this.store.view.filter === "possible";
    const seen = labels.filter((label) => image.masks[label.id] && (image.present[label.id] !== false || (near && isPossible(image, label))));
    const wanted = JSON.stringify(seen.map(({ id, colour }) => [id, colour, image.masks[id], image.present[id]]));
    if (wanted === this.#drawn) return;
    this.#drawn = wanted;
    const { width, height } = fitted(image.width, image.height, SIDE);
    const load = ({ id, colour }) => decodedMask({ url: api.maskAddress(this.id, id, image.masks[id], SIDE) }, width, height, colour).catch(() => null);
    const bitmaps = await Promise.all(seen.map(load));
    if (this.#drawn === wanted && this.overlay) this.#paint(bitmaps, seen.map(({ id }) => image.present[id] === false), width, height);
    for (const bitmap of bitmaps) bitmap?.close();
  }

  /** @param {(ImageBitmap|null)[]} bitmaps @param {boolean[]} hatched which are only nearly found @param {number} width @param {number} height */
  #paint(bitmaps, hatched, width, height) {
    const overlay = /** @type {HTMLCanvasElement} */ (this.overlay);
    const fresh = !overlay.dataset.masks;
    overlay.width = width;
    overlay.height = height;
    const context = /** @type {CanvasRenderingContext2D} */ (overlay.getContext("2d"));
    for (const [index, bitmap] of bitmaps.entries()) {
      if (bitmap) drawMask(context, bitmap, { x: 0, y: 0, width, height }, { fill: 0.5, edge: 2, hatched: hatched[index] });
    }
    overlay.dataset.masks = String(bitmaps.filter(Boolean).length);
    if (fresh) overlay.classList.add("arrives");
  }
}
