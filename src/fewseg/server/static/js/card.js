/** One picture as a thumbnail: its masks, whether it is an example, how sure they are, what went wrong. */

import { api } from "./api.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { fitted, paintedMask } from "./masks.js";
import { drawMask } from "./outline.js";
import { UNSURE } from "./store.js";

/** @typedef {import("./types.js").Picture} Picture */

const SIDE = 480; // longest side of a thumbnail, device pixels

export class Card {
  #mounted = false;
  #drawn = "";

  /** @param {import("./store.js").Store} store @param {Picture} picture */
  constructor(store, picture) {
    this.store = store;
    this.id = picture.id;
    /** @type {HTMLCanvasElement|null} */
    this.overlay = null;
    this.image = h("div", { class: "card-image" });
    this.foot = h("span", { class: "card-foot" });
    this.element = h(
      "a",
      { class: "card", href: `#/picture/${encodeURIComponent(picture.id)}`, "data-id": picture.id, draggable: "false", style: `--aspect: ${picture.width ? picture.width / picture.height : 1}` },
      this.image,
      this.foot,
    );
    this.update();
  }

  get picture() {
    return /** @type {Picture} */ (this.store.pictures.get(this.id));
  }

  /** Loads what is seen, or lets it go. @param {boolean} near on screen or almost */
  mount(near) {
    if (near === this.#mounted) return;
    this.#mounted = near;
    this.#drawn = "";
    if (!near) {
      this.image.replaceChildren();
      return;
    }
    if (!this.picture.width) {
      this.image.replaceChildren(icon("warning")); // a file that is no picture
      return;
    }
    this.overlay = h("canvas", { class: "card-masks" });
    this.image.replaceChildren(h("img", { src: api.imageAddress(this.id, SIDE), alt: "", draggable: "false", decoding: "async" }), this.overlay);
    this.update();
  }

  update() {
    const { picture, store } = this;
    if (!picture) return;
    this.element.dataset.state = picture.state;
    this.foot.replaceChildren(h("span", { class: "card-name" }, picture.name), ...this.#badges(picture));
    this.element.setAttribute("aria-label", [picture.name, ...this.#words(picture)].join(", "));
    this.element.title = picture.error ?? "";
    if (this.#mounted && this.overlay) this.#draw(picture, store.labels);
  }

  /** @param {Picture} picture @returns {string[]} what a screen reader says after the name */
  #words(picture) {
    const names = (/** @type {number[]} */ ids) => ids.map((id) => this.store.label(id)?.name).filter(Boolean).join(" and ");
    if (picture.state === "failed") return [`failed: ${picture.error ?? "unknown reason"}`];
    const words = picture.supports.length ? [`example of ${names(picture.supports)}`] : [];
    if (picture.checked) words.push("checked");
    const found = Object.keys(picture.present).filter((id) => picture.present[id]).map(Number);
    if (picture.state === "done" && found.length) words.push(`shows ${names(found)}`);
    if (picture.state === "done" && picture.confidence !== null && !words.length) words.push("probably shows none of the labels");
    if (picture.confidence !== null && !picture.supports.length) words.push(`${Math.round(100 * picture.confidence)} percent sure`);
    if (picture.state === "waiting" || picture.state === "working") words.push("in work");
    return words;
  }

  /** @param {Picture} picture @returns {Node[]} */
  #badges(picture) {
    if (picture.state === "failed") return [h("span", { class: "badge failed" }, icon("warning"), "Failed")];
    if (picture.supports.length) {
      const dots = picture.supports.map((id) => h("span", { class: "dot", style: `--label: ${this.store.label(id)?.colour ?? "#888"}` }));
      return [h("span", { class: "badge example" }, ...dots, "Example")];
    }
    if (picture.checked) return [h("span", { class: "badge example" }, icon("check"), "Checked")];
    if (picture.state !== "done") return [];
    const present = Object.values(picture.present);
    if (present.length && !present.some(Boolean)) return [h("span", { class: "badge absent" }, "Absent?")];
    if (picture.confidence === null) return [];
    const percent = Math.round(100 * picture.confidence);
    const unsure = picture.confidence < UNSURE;
    return [h("span", { class: unsure ? "badge unsure" : "badge sure", title: `${percent} % sure` }, h("span", { class: "meter", style: `--value: ${percent}%` }), `${percent} %`)];
  }

  /** @param {Picture} picture @param {import("./types.js").Label[]} labels */
  async #draw(picture, labels) {
    const seen = labels.filter(({ id }) => picture.masks[id] && (picture.supports.includes(id) || picture.present[id] !== false));
    const wanted = JSON.stringify(seen.map(({ id, colour }) => [id, colour, picture.masks[id]]));
    if (wanted === this.#drawn) return;
    this.#drawn = wanted;
    const { width, height } = fitted(picture.width, picture.height, SIDE);
    const load = ({ id, colour }) => paintedMask({ url: api.maskAddress(this.id, id, picture.masks[id], SIDE) }, width, height, colour).catch(() => null);
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
