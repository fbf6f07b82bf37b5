/** What the page knows. Modules read it, change it through its methods, and listen to what changed. */

/** @typedef {import("./types.js").Picture} Picture */

export const UNSURE = 0.6; // confidence below which a mask deserves a look
const KEPT = "fewseg.view";

/**
 * Events: `labels` (labels changed), `pictures` (other pictures than before), `picture` (detail: the id), `progress`,
 * `project` (revision or undo), `active` (the label to paint with), `view` (filter, order, display), `connection`.
 */
export class Store extends EventTarget {
  /** @type {import("./types.js").Info|null} */
  info = null;
  revision = 0;
  /** @type {import("./types.js").Label[]} */
  labels = [];
  /** @type {Map<string, Picture>} in the folder's order */
  pictures = new Map();
  /** @type {import("./types.js").Progress} */
  progress = { done: 0, total: 0, seconds_left: null };
  canUndo = false;
  canRedo = false;
  /** @type {string[]} */
  notices = [];
  /** @type {string|null} */
  undoText = null;
  /** @type {number|null} the label to paint with */
  active = null;
  /** @type {"connecting"|"open"|"lost"} */
  connection = "connecting";
  view = { filter: "all", order: "folder", opacity: 0.5, masks: true, uncertainty: false, brush: 36, region: 0.5, .../** @type {any} */ (kept()) };

  /** @param {string} type @param {any} [detail] */
  say(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** @param {string} types separated by spaces @param {(detail: any) => void} action @param {AbortSignal} [signal] */
  on(types, action, signal) {
    for (const type of types.split(" ")) this.addEventListener(type, (event) => action(/** @type {CustomEvent} */ (event).detail), { signal });
  }

  /** @param {import("./types.js").Project} project what the server knows, all of it */
  setProject(project) {
    this.revision = project.revision;
    this.canUndo = project.can_undo;
    this.canRedo = project.can_redo;
    this.notices = project.notices ?? [];
    this.undoText = project.undo_text;
    this.#setLabels(project.labels);
    this.#setPictures(project.pictures);
    this.setProgress(project.progress);
    this.say("project");
  }

  /** @param {Picture} picture */
  setPicture(picture) {
    const before = this.pictures.get(picture.id);
    if (before && JSON.stringify(before) === JSON.stringify(picture)) return;
    this.pictures.set(picture.id, picture);
    this.say(before ? "picture" : "pictures", picture.id);
  }

  /** @param {import("./types.js").Progress} progress */
  setProgress(progress) {
    this.progress = progress;
    this.say("progress");
  }

  /** A label that was just made; the next event of the project brings it too. @param {import("./types.js").Label} label */
  addLabel(label) {
    if (!this.label(label.id)) this.#setLabels([...this.labels, label]);
    this.setActive(label.id);
  }

  /** @param {number|null} id */
  setActive(id) {
    if (id === this.active) return;
    this.active = id;
    this.say("active");
  }

  /** @param {Record<string, any>} change */
  setView(change) {
    Object.assign(this.view, change);
    try {
      localStorage.setItem(KEPT, JSON.stringify(this.view));
    } catch {
      // private windows may refuse; the view then lasts as long as the page
    }
    this.say("view", change);
  }

  /** @param {"connecting"|"open"|"lost"} state */
  setConnection(state) {
    if (state === this.connection) return;
    this.connection = state;
    this.say("connection");
  }

  /** @param {number|null|undefined} id */
  label(id) {
    return this.labels.find((label) => label.id === id) ?? null;
  }

  /** Pictures that pass the filter, in the chosen order. @returns {Picture[]} */
  shown() {
    const chosen = [...this.pictures.values()].filter(FILTERS[this.view.filter] ?? FILTERS.all);
    if (this.view.order === "unsure") chosen.sort((a, b) => doubt(b) - doubt(a));
    return chosen;
  }

  /** @param {import("./types.js").Label[]} labels */
  #setLabels(labels) {
    if (JSON.stringify(labels) === JSON.stringify(this.labels)) return;
    this.labels = labels;
    if (!this.label(this.active)) this.setActive(labels[0]?.id ?? null);
    this.say("labels");
  }

  /** @param {Picture[]} pictures */
  #setPictures(pictures) {
    const before = this.pictures;
    this.pictures = new Map(pictures.map((picture) => [picture.id, picture]));
    const same = before.size === pictures.length && pictures.every((picture) => before.has(picture.id));
    if (!same) this.say("pictures");
    else for (const picture of pictures) if (JSON.stringify(before.get(picture.id)) !== JSON.stringify(picture)) this.say("picture", picture.id);
  }
}

/** @param {Picture} picture @returns {number} how much it deserves a look: failed first, then unsure, examples last */
function doubt(picture) {
  if (picture.state === "failed") return 3;
  if (picture.supports.length || picture.checked) return -1;
  return picture.confidence === null ? 0 : 1 + (1 - picture.confidence);
}

/** @type {Record<string, (picture: Picture) => boolean>} */
export const FILTERS = {
  all: () => true,
  labelled: (picture) => picture.supports.length > 0,
  unsure: (picture) => picture.state === "done" && !picture.supports.length && !picture.checked && picture.confidence !== null && picture.confidence < UNSURE,
  absent: (picture) => picture.state === "done" && !picture.supports.length && Object.values(picture.present).length > 0 && !Object.values(picture.present).some(Boolean),
  failed: (picture) => picture.state === "failed",
};

/** @returns {Object} the view of last time */
function kept() {
  try {
    return { ...JSON.parse(localStorage.getItem(KEPT) ?? "{}"), filter: "all" };
  } catch {
    return {};
  }
}
