/** Thumbnails in a row or a grid: only what is near the screen is loaded, and the server hears what is seen. */

import { api } from "./api.js";
import { Card } from "./card.js";
import { settled } from "./dom.js";

/** @typedef {import("./types.js").Picture} Picture */

export class PictureList {
  /** @type {Map<string, Card>} every card ever made, by picture */
  #cards = new Map();
  /** @type {Set<string>} on screen */
  #seen = new Set();
  #told = "";

  /** @param {import("./store.js").Store} store @param {HTMLElement} host @param {{first?: () => string|null}} [options] first: the picture to segment before all */
  constructor(store, host, { first } = {}) {
    this.store = store;
    this.host = host;
    this.first = first ?? (() => null);
    this.near = new IntersectionObserver((entries) => entries.forEach((entry) => this.#card(entry.target)?.mount(entry.isIntersecting)), { rootMargin: "400px" });
    this.onScreen = new IntersectionObserver((entries) => this.#look(entries));
    this.tell = settled(() => this.#tell(), 200);
    store.on("picture", (id) => this.#cards.get(id)?.update());
    store.on("labels", () => this.#cards.forEach((card) => card.update()));
    store.on("connection", () => (this.#told = ""));
    host.addEventListener("keydown", (event) => this.#steer(event));
    host.addEventListener("focusin", (event) => this.#rove(/** @type {HTMLElement} */ (event.target)));
  }

  /** @param {Picture[]} pictures */
  show(pictures) {
    const elements = pictures.map((picture) => this.#cardOf(picture).element);
    const current = this.host.children;
    if (elements.length === current.length && elements.every((element, index) => element === current[index])) return;
    for (const element of current) this.#forget(/** @type {HTMLElement} */ (element));
    this.host.replaceChildren(...elements);
    for (const element of elements) {
      this.near.observe(element);
      this.onScreen.observe(element);
    }
    if (!elements.some((element) => element.tabIndex === 0 && element.hasAttribute("tabindex"))) this.#rove(elements[0]);
    this.tell();
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
    if (element) this.#rove(element);
    this.tell();
  }

  /** @param {Picture} picture @returns {Card} */
  #cardOf(picture) {
    let card = this.#cards.get(picture.id);
    if (!card) this.#cards.set(picture.id, (card = new Card(this.store, picture)));
    return card;
  }

  /** @param {Element} element */
  #card(element) {
    return this.#cards.get(/** @type {HTMLElement} */ (element).dataset.id ?? "");
  }

  /** @param {HTMLElement} element */
  #forget(element) {
    this.near.unobserve(element);
    this.onScreen.unobserve(element);
    this.#seen.delete(element.dataset.id ?? "");
    this.#card(element)?.mount(false);
  }

  /** @param {IntersectionObserverEntry[]} entries */
  #look(entries) {
    for (const { target, isIntersecting } of entries) {
      const id = /** @type {HTMLElement} */ (target).dataset.id ?? "";
      if (isIntersecting) this.#seen.add(id);
      else this.#seen.delete(id);
    }
    this.tell();
  }

  /** Tells the server what is on screen, in reading order. */
  #tell() {
    if (!this.host.offsetParent && !this.host.getClientRects().length) return;
    const first = this.first();
    const order = [...this.host.children].map((element) => /** @type {HTMLElement} */ (element).dataset.id ?? "").filter((id) => this.#seen.has(id) && id !== first);
    const ids = first ? [first, ...order] : order;
    const said = ids.join("\n");
    if (!ids.length || said === this.#told || this.store.connection !== "open") return;
    this.#told = said;
    api.visible(ids).catch(() => (this.#told = "")); // an order of work only: what is missed comes later
  }

  /** One card is reached by Tab, the others from it by the arrow keys. @param {HTMLElement|undefined} element */
  #rove(element) {
    if (!element?.classList.contains("card")) return;
    for (const card of this.#cards.values()) card.element.tabIndex = -1;
    element.tabIndex = 0;
  }

  /** @param {KeyboardEvent} event */
  #steer(event) {
    const cards = /** @type {HTMLElement[]} */ ([...this.host.children]);
    const at = cards.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    /** @type {Record<string, () => HTMLElement|undefined>} */
    const moves = {
      ArrowRight: () => cards[at + 1],
      ArrowLeft: () => cards[at - 1],
      ArrowDown: () => beyond(cards, at, 1),
      ArrowUp: () => beyond(cards, at, -1),
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
function beyond(cards, at, step) {
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
