/** One picture: the desk, and around it the bar, the tools, the panel and the strip of all pictures. */

import { Desk } from "./desk.js";
import { find } from "./dom.js";
import { labelDialog } from "./labels.js";
import { complain } from "./notices.js";
import { showPanel } from "./panel.js";
import { PictureList } from "./picture-list.js";
import { showToolbar } from "./toolbar.js";

/** @typedef {import("./types.js").Picture} Picture */

export class Editor {
  /** @param {import("./store.js").Store} store @param {import("./saver.js").Saver} saver */
  constructor(store, saver) {
    this.store = store;
    this.saver = saver;
    this.view = find("#editor");
    this.desk = new Desk(store, saver, find("#stage"), find("#scene"), find("#over"));
    this.strip = new PictureList(store, find("#strip"), { first: () => this.desk.picture?.id ?? null });
    showToolbar(this.desk);
    showPanel(this.desk);
    this.#bar();
    this.#zoom();
    this.desk.addEventListener("needs-label", () => labelDialog(store, null));
    store.on("pictures", () => !this.view.hidden && this.#reopen());
    store.on("picture", (id) => id === this.desk.picture?.id && this.#describe());
  }

  get open() {
    return !this.view.hidden;
  }

  /** @param {string|null} id null closes it */
  show(id) {
    const picture = id === null ? null : this.store.pictures.get(id);
    const walking = this.open;
    this.view.hidden = !picture;
    if (!picture) {
      if (this.desk.picture) this.saver.flush();
      this.desk.close();
      return;
    }
    if (!picture.width) {
      this.view.hidden = true;
      complain(picture.error ?? `${picture.name} is not a readable picture.`);
      return;
    }
    if (this.desk.picture?.id === picture.id) return;
    if (this.desk.picture) this.saver.flush();
    // One walks through the list that was left for the editor, whatever passes the filter meanwhile.
    if (!walking || !this.#ids().includes(picture.id)) this.strip.show(this.#order(picture.id));
    this.desk.open(picture);
    this.strip.mark(picture.id, true);
    this.#describe();
  }

  /** @param {1|-1} step */
  go(step) {
    const id = this.#beside(step);
    if (id) location.replace(`#/picture/${encodeURIComponent(id)}`);
  }

  /** Pictures in the gallery's order; all of them where the one to open does not pass the filter. @param {string} open its id */
  #order(open) {
    const shown = this.store.shown();
    return shown.some(({ id }) => id === open) ? shown : [...this.store.pictures.values()];
  }

  /** @returns {string[]} what one walks through */
  #ids() {
    return [...this.strip.host.children].map((element) => /** @type {HTMLElement} */ (element).dataset.id ?? "");
  }

  /** @param {1|-1} step @returns {string|undefined} */
  #beside(step) {
    const ids = this.#ids();
    const at = ids.indexOf(this.desk.picture?.id ?? "");
    const ahead = step > 0 ? ids.slice(at + 1) : ids.slice(0, Math.max(at, 0)).reverse();
    return at < 0 ? undefined : ahead.find((id) => this.store.pictures.get(id)?.width);
  }

  #reopen() {
    const id = this.desk.picture?.id;
    if (id && !this.store.pictures.has(id)) location.hash = "#/";
    else if (id) this.strip.show(this.#still(id));
    this.#describe();
  }

  /** The list to walk through, after pictures came or went. @param {string} open id of the open picture @returns {Picture[]} */
  #still(open) {
    const { pictures, view } = this.store;
    if (view.filter === "all") return this.#order(open);
    return this.#ids().flatMap((id) => pictures.get(id) ?? []);
  }

  #describe() {
    const { picture } = this.desk;
    if (!picture) return;
    const ids = this.#ids();
    const at = ids.indexOf(picture.id);
    find("#picture-name").textContent = picture.name;
    find("#picture-place").textContent = `${at + 1} / ${ids.length}`;
    find("#previous").disabled = at <= 0;
    find("#following").disabled = at < 0 || at >= ids.length - 1;
    this.desk.stage.setAttribute("aria-label", `${picture.name}: paint here. Arrow keys move the cross, Enter presses.`);
  }

  #bar() {
    const undo = find("#undo-stroke");
    const redo = find("#redo-stroke");
    undo.addEventListener("click", () => this.desk.step("undo"));
    redo.addEventListener("click", () => this.desk.step("redo"));
    find("#previous").addEventListener("click", () => this.go(-1));
    find("#following").addEventListener("click", () => this.go(1));
    const draw = () => {
      undo.disabled = !this.desk.history.canUndo;
      redo.disabled = !this.desk.history.canRedo;
    };
    this.desk.addEventListener("history", draw);
    draw();
  }

  #zoom() {
    const percent = find("#zoom-percent");
    const by = (/** @type {number} */ factor) => () => (this.desk.view.zoom(factor), this.desk.viewChanged());
    find("#zoom-in").addEventListener("click", by(1.4));
    find("#zoom-out").addEventListener("click", by(1 / 1.4));
    find("#zoom-fit").addEventListener("click", () => (this.desk.view.fit(), this.desk.viewChanged()));
    this.desk.addEventListener("view", () => (percent.textContent = `${Math.round(100 * this.desk.view.scale)} %`));
  }
}
