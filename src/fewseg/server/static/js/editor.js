/** The editor of one image: the canvas, and around it the bar, the tools, the panel and the strip of all images. */

import { CanvasController } from "./canvas-controller.js";
import { Decisions } from "./decisions.js";
import { find } from "./dom.js";
import { labelDialog } from "./labels.js";
import { notice, showError } from "./notices.js";
import { showPanel } from "./panel.js";
import { ImageList } from "./image-list.js";
import { showToolbar } from "./toolbar.js";

/** @typedef {import("./types.js").ImageEntry} ImageEntry */

export class Editor {
  /** @param {import("./store.js").Store} store @param {import("./saver.js").Saver} saver */
  constructor(store, saver) {
    this.store = store;
    this.saver = saver;
    this.view = find("#editor");
    this.controller = new CanvasController(store, saver, find("#stage"), find("#scene"), find("#overlay"));
    this.strip = new ImageList(store, find("#strip"), { first: () => this.controller.image?.id ?? null });
    showToolbar(this.controller);
    this.decisions = new Decisions(this);
    showPanel(this.controller, this.decisions);
    this.#bar();
    this.#zoom();
    this.controller.addEventListener("needs-label", () => labelDialog(store, null));
    store.on("images", () => !this.view.hidden && this.#reopen());
    store.on("image", (id) => id === this.controller.image?.id && this.#describe());
  }

  get open() {
    return !this.view.hidden;
  }

  /** @param {string|null} id null closes it */
  show(id) {
    const image = id === null ? null : this.store.images.get(id);
    const wasOpen = this.open;
    const byKeyboard = Boolean(document.activeElement?.matches("#grid .card:focus-visible"));
    this.view.hidden = !image;
    if (!image) {
      if (this.controller.image) this.saver.flush();
      this.controller.close();
      return;
    }
    if (!image.width) {
      this.view.hidden = true;
      showError(image.error ?? `${image.name} is not a readable image.`);
      return;
    }
    if (this.controller.image?.id === image.id) return;
    if (this.controller.image) this.saver.flush();
    // Next and previous follow the list that was shown when the editor opened, whatever passes the filter now.
    if (!wasOpen || !this.#ids().includes(image.id)) this.strip.show(this.#order(image.id));
    this.controller.open(image);
    this.strip.mark(image.id, true);
    this.#describe();
    // By keyboard the focus goes on to the image, from where keys paint; by pointer the arrows lead to the next one.
    if (!wasOpen && byKeyboard) this.controller.stage.focus({ preventScroll: true });
  }

  /** @param {1|-1} step */
  go(step) {
    const id = this.#beside(step);
    if (id) this.goTo(id);
  }

  /** @param {string} id */
  goTo(id) {
    location.replace(`#/picture/${encodeURIComponent(id)}`);
  }

  /** Goes on to the next image that nobody checked, from the end to the beginning. */
  goToOpen() {
    const ids = this.#ids();
    const at = ids.indexOf(this.controller.image?.id ?? "");
    const next = [...ids.slice(at + 1), ...ids.slice(0, Math.max(at, 0))].find((id) => {
      const image = this.store.images.get(id);
      return image?.width && !image.checked && image.state !== "failed";
    });
    if (next) return this.goTo(next);
    const all = [...this.store.images.values()].every((image) => image.checked || image.state === "failed");
    notice(all ? "Every image is checked. A good moment to export." : "Every image of this list is checked.", "info", undefined, "end");
  }

  /** Images in the gallery's order; all of them where the one to open does not pass the filter. @param {string} open its id */
  #order(open) {
    const shown = this.store.shown();
    return shown.some(({ id }) => id === open) ? shown : [...this.store.images.values()];
  }

  /** @returns {string[]} the images that next and previous go through */
  #ids() {
    return [...this.strip.host.children].map((element) => /** @type {HTMLElement} */ (element).dataset.id ?? "");
  }

  /** @param {1|-1} step @returns {string|undefined} */
  #beside(step) {
    const ids = this.#ids();
    const at = ids.indexOf(this.controller.image?.id ?? "");
    const ahead = step > 0 ? ids.slice(at + 1) : ids.slice(0, Math.max(at, 0)).reverse();
    return at < 0 ? undefined : ahead.find((id) => this.store.images.get(id)?.width);
  }

  #reopen() {
    const id = this.controller.image?.id;
    if (id && !this.store.images.has(id)) location.hash = "#/";
    else if (id) this.strip.show(this.#updatedList(id));
    this.#describe();
  }

  /** The list for next and previous after images were added or removed. @param {string} open id of the open image @returns {ImageEntry[]} */
  #updatedList(open) {
    const { images, view } = this.store;
    if (view.filter === "all") return this.#order(open);
    return this.#ids().flatMap((id) => images.get(id) ?? []);
  }

  #describe() {
    const { image } = this.controller;
    if (!image) return;
    const ids = this.#ids();
    const at = ids.indexOf(image.id);
    find("#image-name").textContent = image.name;
    find("#image-position").textContent = `${at + 1} / ${ids.length}`;
    find("#previous").disabled = at <= 0;
    find("#next").disabled = at < 0 || at >= ids.length - 1;
    this.controller.stage.setAttribute("aria-label", `${image.name}: paint here. Arrow keys move the cursor, Enter clicks.`);
  }

  #bar() {
    const undo = find("#undo-stroke");
    const redo = find("#redo-stroke");
    undo.addEventListener("click", () => this.controller.step("undo"));
    redo.addEventListener("click", () => this.controller.step("redo"));
    find("#previous").addEventListener("click", () => this.go(-1));
    find("#next").addEventListener("click", () => this.go(1));
    const draw = () => {
      undo.disabled = !this.controller.history.canUndo;
      redo.disabled = !this.controller.history.canRedo;
    };
    this.controller.addEventListener("history", draw);
    draw();
  }

  #zoom() {
    const percent = find("#zoom-percent");
    const by = (/** @type {number} */ factor) => () => (this.controller.view.zoom(factor), this.controller.viewChanged());
    find("#zoom-in").addEventListener("click", by(1.4));
    find("#zoom-out").addEventListener("click", by(1 / 1.4));
    find("#zoom-fit").addEventListener("click", () => (this.controller.view.fit(), this.controller.viewChanged()));
    this.controller.addEventListener("view", () => (percent.textContent = `${Math.round(100 * this.controller.view.scale)} %`));
  }
}
