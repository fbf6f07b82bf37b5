/** The thumbnail of an image with its masks and a badge: example, confidence or error. */

import { api } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { fitted, decodedMask } from "./masks.js";
import { drawMask } from "./draw-mask.js";
import { UNCERTAIN_BELOW } from "./store.js";

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
    this.frame.replaceChildren(h("img", { src: api.imageAddress(this.id, SIDE), alt: "", draggable: "false", decoding: "async" }), this.overlay);
    this.update();
  }

  update() {
    const { image, store } = this;
    if (!image) return;
    this.element.dataset.state = image.state;
    this.foot.replaceChildren(h("span", { class: "card-name" }, image.name), ...this.#badges(image));
    this.element.setAttribute("aria-label", [image.name, ...this.#words(image)].join(", "));
    this.element.title = image.error ?? "";
    if (this.#mounted && this.overlay) this.#draw(image, store.labels);
  }

  /** @param {ImageEntry} image @returns {string[]} the description after the name, for screen readers */
  #words(image) {
    const names = (/** @type {number[]} */ ids) => ids.map((id) => this.store.label(id)?.name).filter(Boolean).join(" and ");
    if (image.state === "failed") return [`failed: ${image.error ?? "unknown reason"}`];
    const words = image.supports.length ? [`example of ${names(image.supports)}`] : [];
    if (image.checked) words.push("checked");
    const present = Object.keys(image.present).filter((id) => image.present[id]).map(Number);
    if (image.state === "done" && present.length) words.push(`shows ${names(present)}`);
    if (image.state === "done" && image.confidence !== null && !words.length) words.push("probably shows none of the labels");
    if (image.confidence !== null && !image.supports.length) words.push(`${Math.round(100 * image.confidence)} percent confidence`);
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
    if (image.checked) return [h("span", { class: "badge example" }, icon("check"), "Checked")];
    if (image.state !== "done") return [];
    const present = Object.values(image.present);
    if (present.length && !present.some(Boolean)) return [h("span", { class: "badge absent" }, "Absent?")];
    if (image.confidence === null) return [];
    const percent = Math.round(100 * image.confidence);
    const uncertain = image.confidence < UNCERTAIN_BELOW;
    return [h("span", { class: uncertain ? "badge uncertain" : "badge certain", title: `Confidence ${percent} %` }, h("span", { class: "meter", style: `--value: ${percent}%` }), `${percent} %`)];
  }

  /** @param {ImageEntry} image @param {import("./types.js").Label[]} labels */
  async #draw(image, labels) {
    const seen = labels.filter(({ id }) => image.masks[id] && (image.supports.includes(id) || image.present[id] !== false));
    const wanted = JSON.stringify(seen.map(({ id, colour }) => [id, colour, image.masks[id]]));
    if (wanted === this.#drawn) return;
    this.#drawn = wanted;
    const { width, height } = fitted(image.width, image.height, SIDE);
    const load = ({ id, colour }) => decodedMask({ url: api.maskAddress(this.id, id, image.masks[id], SIDE) }, width, height, colour).catch(() => null);
    const bitmaps = await Promise.all(seen.map(load));
    if (this.#drawn === wanted && this.overlay) this.#paint(bitmaps, width, height);
    for (const bitmap of bitmaps) bitmap?.close();
  }

  /** @param {(ImageBitmap|null)[]} bitmaps @param {number} width @param {number} height */
  #paint(bitmaps, width, height) {
    const overlay = /** @type {HTMLCanvasElement} */ (this.overlay);
    const fresh = !overlay.dataset.masks;
    overlay.width = width;
    overlay.height = height;
    const context = /** @type {CanvasRenderingContext2D} */ (overlay.getContext("2d"));
    for (const bitmap of bitmaps) if (bitmap) drawMask(context, bitmap, { x: 0, y: 0, width, height }, { fill: 0.5, edge: 2 });
    overlay.dataset.masks = String(bitmaps.filter(Boolean).length);
    if (fresh) overlay.classList.add("arrives");
  }
}
