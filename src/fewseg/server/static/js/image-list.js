/** Thumbnails in a row or a grid: loaded near the screen only; the visible ones are reported to the server. */

import { api } from "./api.js";
import { Card } from "./card.js";
import { settled } from "./dom.js";

/** @typedef {import("./types.js").ImageEntry} ImageEntry */

export class ImageList {
  /** @type {Map<string, Card>} every card ever made, by image */
  #cards = new Map();
  /** @type {Set<string>} on screen */
  #seen = new Set();
  #reported = "";

  /** @param {import("./store.js").Store} store @param {HTMLElement} host @param {{first?: () => string|null}} [options] first: the image to segment first */
  constructor(store, host, { first } = {}) {
    this.store = store;
    this.host = host;
    this.first = first ?? (() => null);
    this.near = new IntersectionObserver((entries) => entries.forEach((entry) => this.#card(entry.target)?.mount(entry.isIntersecting)), { rootMargin: "400px" });
    this.onScreen = new IntersectionObserver((entries) => this.#visibilityChanged(entries));
    this.reportVisible = settled(() => this.#report(), 200);
    store.on("image", (id) => this.#cards.get(id)?.update());
    store.on("labels", () => this.#cards.forEach((card) => card.update()));
    store.on("connection", () => {
      this.#reported = "";
      if (store.connection === "open") this.#cards.forEach((card) => card.recover());
    });
    store.on("view", (change) => ("filter" in change || "label" in change) && this.#cards.forEach((card) => card.update()));
    host.addEventListener("keydown", (event) => this.#navigate(event));
    host.addEventListener("focusin", (event) => this.#setTabStop(/** @type {HTMLElement} */ (event.target)));
  }

  /** @param {ImageEntry[]} images */
  show(images) {
    const elements = images.map((image) => this.#cardOf(image).element);
    const current = this.host.children;
    if (elements.length === current.length && elements.every((element, index) => element === current[index])) return;
    for (const element of current) this.#release(/** @type {HTMLElement} */ (element));
    this.host.replaceChildren(...elements);
    for (const element of elements) {
      this.near.observe(element);
      this.onScreen.observe(element);
    }
    if (!elements.some((element) => element.tabIndex === 0 && element.hasAttribute("tabindex"))) this.#setTabStop(elements[0]);
    this.reportVisible();
  }

  /** @param {string|null} id @param {boolean} [follow] scrolls to it */
  mark(id, follow = false) {
    for (const card of this.#cards.values()) {
      const current = card.id === id;
      if (current) card.element.setAttribute("aria-current", "true");
      else card.element.removeAttribute("aria-current");
    }
    const element = this.#cards.get(id ?? "")?.element;
    if (follow) element?.scrollIntoView({ block: "nearest", inline: "center" });
    if (follow && this.host.id === "grid" && document.activeElement === document.body) element?.focus({ preventScroll: true });
    if (element) this.#setTabStop(element);
    this.reportVisible();
  }

  /** @param {ImageEntry} image @returns {Card} */
  #cardOf(image) {
    let card = this.#cards.get(image.id);
    if (!card) this.#cards.set(image.id, (card = new Card(this.store, image)));
    return card;
  }

  /** @param {Element} element */
  #card(element) {
    return this.#cards.get(/** @type {HTMLElement} */ (element).dataset.id ?? "");
  }

  /** @param {HTMLElement} element */
  #release(element) {
    this.near.unobserve(element);
    this.onScreen.unobserve(element);
    this.#seen.delete(element.dataset.id ?? "");
    this.#card(element)?.mount(false);
  }

  /** @param {IntersectionObserverEntry[]} entries */
  #visibilityChanged(entries) {
    for (const { target, isIntersecting } of entries) {
      const id = /** @type {HTMLElement} */ (target).dataset.id ?? "";
      if (isIntersecting) this.#seen.add(id);
      else this.#seen.delete(id);
    }
    this.reportVisible();
  }

  /** Reports the images on screen to the server, in reading order. */
  #report() {
    if (!this.host.offsetParent && !this.host.getClientRects().length) return;
    const first = this.first();
    const order = [...this.host.children].map((element) => /** @type {HTMLElement} */ (element).dataset.id ?? "").filter((id) => this.#seen.has(id) && id !== first);
    const ids = first ? [first, ...order] : order;
    const key = ids.join("\n");
    if (!ids.length || key === this.#reported || this.store.connection !== "open") return;
    this.#reported = key;
    api.visible(ids).catch(() => (this.#reported = "")); // it only sets an order of work
  }

  /** One card is reached by Tab, the others from it by the arrow keys. @param {HTMLElement|undefined} element */
  #setTabStop(element) {
    if (!element?.classList.contains("card")) return;
    for (const card of this.#cards.values()) card.element.tabIndex = -1;
    element.tabIndex = 0;
  }

  /** @param {KeyboardEvent} event */
  #navigate(event) {
    const cards = /** @type {HTMLElement[]} */ ([...this.host.children]);
    const at = cards.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    /** @type {Record<string, () => HTMLElement|undefined>} */
    const moves = {
      ArrowRight: () => cards[at + 1],
      ArrowLeft: () => cards[at - 1],
      ArrowDown: () => inNextRow(cards, at, 1),
      ArrowUp: () => inNextRow(cards, at, -1),
      Home: () => cards[0],
      End: () => cards[cards.length - 1],
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    move()?.focus();
  }
}

/** The card in the next row that lies nearest. @param {HTMLElement[]} cards @param {number} at @param {1|-1} step */
function inNextRow(cards, at, step) {
  const from = cards[at].getBoundingClientRect();
  const middle = from.left + from.width / 2;
  let best;
  let row = null;
  for (let i = at + step; i >= 0 && i < cards.length; i += step) {
    const box = cards[i].getBoundingClientRect();
    if (Math.abs(box.top - from.top) < 4) continue;
    row ??= box.top;
    if (Math.abs(box.top - row) > 4) break;
    const distance = Math.abs(box.left + box.width / 2 - middle);
    if (!best || distance < best.distance) best = { card: cards[i], distance };
  }
  return best?.card;
}
