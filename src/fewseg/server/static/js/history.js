/** The steps painted since the image was opened, limited in memory. */

/** @typedef {import("./layer.js").Change} Change */

const PIXELS = 60e6; // of all stored pieces; four bytes each

export class History {
  /** @type {Change[]} */
  #done = [];
  /** @type {Change[]} */
  #undone = [];

  get canUndo() {
    return this.#done.length > 0;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** @param {Change} change */
  add(change) {
    this.#done.push(change);
    this.#undone = [];
    let kept = 0;
    const from = this.#done.findLastIndex(({ before }) => (kept += 2 * before.width * before.height) > PIXELS);
    if (from < 0 || from === this.#done.length - 1) return;
    for (const { layer } of this.#done.splice(0, from + 1)) layer.example = true; // its first step can no longer be undone
  }

  /** @returns {Change|undefined} the undone change */
  undo() {
    const change = this.#done.pop();
    if (!change) return undefined;
    change.layer.restore(change, "before");
    this.#undone.push(change);
    return change;
  }

  /** @returns {Change|undefined} the redone change */
  redo() {
    const change = this.#undone.pop();
    if (!change) return undefined;
    change.layer.restore(change, "after");
    this.#done.push(change);
    return change;
  }

  /** @param {import("./layer.js").MaskLayer} layer @returns {number} number of its steps that can be undone */
  steps(layer) {
    return this.#done.filter((change) => change.layer === layer).length;
  }

  /** Drops the steps of a mask that was replaced. @param {import("./layer.js").MaskLayer} layer */
  drop(layer) {
    this.#done = this.#done.filter((change) => change.layer !== layer);
    this.#undone = this.#undone.filter((change) => change.layer !== layer);
  }

  clear() {
    this.#done = [];
    this.#undone = [];
  }
}
