/** Decisions about the open image: accepted, checked, not here. Each goes on to the next mask that nobody decided about. */

import { api } from "./api.js";
import { attempt, notice } from "./notices.js";
import { undecided } from "./store.js";

/** @typedef {import("./types.js").ImageEntry} ImageEntry */
/** @typedef {import("./types.js").Label} Label */

export class Decisions {
  /** @type {{image: string, text: string}|null} the last one, and how the server calls it */
  #last = null;

  /** @param {import("./editor.js").Editor} editor */
  constructor(editor) {
    this.editor = editor;
    this.controller = editor.controller;
    this.store = editor.store;
    this.saver = editor.saver;
  }

  /** Makes the shown mask an example: unsaved strokes if there are any, else the prediction. */
  async accept() {
    const { image, label } = this.#open();
    if (!image || !label || image.supports.includes(label.id)) return;
    if (this.saver.pending(image, label.id)) return void this.saver.flush();
    const layer = this.controller.layer;
    if (!image.masks[label.id] || image.absent.includes(label.id)) return;
    if (layer?.absent) return notice(`No mask of ${label.name} is shown here: show what was found (F), or paint it.`);
    if (!layer?.ready) return notice("The mask is still loading: accept it when it is shown.");
    const changed = await attempt(() => api.promote(image.id, label.id, image.masks[label.id]));
    if (changed?.id) this.#decided(changed, `Accept ${label.name} in ${image.name}`, `${label.name} in ${image.name} is an example now.`);
  }

  /** Says that the active label is not in the image. */
  async refuse() {
    const { image, label } = this.#open();
    if (!image || !label || image.absent.includes(label.id)) return;
    const painted = this.saver.pending(image, label.id);
    if (painted) await this.saver.flush();
    const changed = await attempt(() => api.refuse(image.id, label.id, painted ? undefined : image.masks[label.id]));
    if (changed?.id) this.#decided(changed, `Say that ${label.name} is not in ${image.name}`, `No ${label.name} in ${image.name}.`);
  }

  /** Confirms the masks of the image, or takes that back. */
  async check() {
    const { image } = this.#open();
    if (!image || image.state !== "done") return;
    await this.saver.flush();
    const masks = Object.fromEntries(undecided(image).map((label) => [label, image.masks[label]]));
    const changed = await attempt(() => (image.checked ? api.check(image.id, false) : api.check(image.id, true, masks)));
    if (!changed?.id) return;
    if (image.checked) this.store.setImage(changed);
    else this.#decided(changed, `Check ${image.name}`, `${image.name} is checked.`);
  }

  /** Takes back what was decided about the active label in the open image. */
  async withdraw() {
    const { image, label } = this.#open();
    if (!image || !label) return;
    await this.saver.flush();
    const changed = await attempt(() => api.removeAnnotation(image.id, label.id));
    if (changed?.id) this.store.setImage(changed);
  }

  /** Takes back the last decision, unless somebody changed anything since. @returns {boolean} whether there was one */
  undo() {
    const last = this.#last;
    if (!last || this.store.undoText !== last.text) return false;
    this.#last = null;
    attempt(() => api.undo()).then((project) => project && this.store.images.has(last.image) && this.editor.goTo(last.image));
    return true;
  }

  /** @returns {{image: ImageEntry|null, label: Label|null}} */
  #open() {
    return { image: this.controller.image, label: this.store.label(this.store.active) };
  }

  /** @param {ImageEntry} changed @param {string} text how the server calls it @param {string} said what the page says */
  #decided(changed, text, said) {
    this.#last = { image: changed.id, text };
    this.store.setImage(changed);
    if (!this.store.view.advance) return;
    const offer = { text: "Undo", action: () => this.undo() || notice("Something else was changed since: the arrow at the top undoes that first.") };
    const [next] = undecided(changed);
    if (next !== undefined && !changed.checked) {
      this.store.setActive(next);
      notice(`${said} Next: ${this.store.label(next)?.name} in this image.`, "info", offer, "decision");
    } else {
      notice(said, "info", offer, "decision");
      this.editor.goToOpen();
    }
  }
}
