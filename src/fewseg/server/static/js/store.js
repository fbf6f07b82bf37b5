/** The page's state. Modules read it, change it through its methods, and listen to its events. */

/** @typedef {import("./types.js").ImageEntry} ImageEntry */

export const UNCERTAIN_BELOW = 0.6; // confidence below which a mask counts as uncertain
const STORAGE_KEY = "fewseg.view";

/**
 * Events: `labels`, `images` (images were added or removed), `image` (one changed; detail: its id), `progress`,
 * `project` (revision or undo), `active` (the label to paint with), `view` (filter, order, display), `connection`.
 */
export class Store extends EventTarget {
  /** @type {import("./types.js").Info|null} */
  info = null;
  revision = 0;
  /** @type {import("./types.js").Label[]} */
  labels = [];
  /** @type {Map<string, ImageEntry>} in the folder's order */
  images = new Map();
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
  view = { filter: "all", order: "folder", opacity: 0.5, masks: true, uncertainty: false, brush: 36, region: 0.5, .../** @type {any} */ (savedView()) };

  /** @param {string} type @param {any} [detail] */
  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** @param {string} types separated by spaces @param {(detail: any) => void} action @param {AbortSignal} [signal] */
  on(types, action, signal) {
    for (const type of types.split(" ")) this.addEventListener(type, (event) => action(/** @type {CustomEvent} */ (event).detail), { signal });
  }

  /** @param {import("./types.js").Project} project the whole project, from the server */
  setProject(project) {
    this.revision = project.revision;
    this.canUndo = project.can_undo;
    this.canRedo = project.can_redo;
    this.notices = project.notices ?? [];
    this.undoText = project.undo_text;
    this.#setLabels(project.labels);
    this.#setImages(project.pictures);
    this.setProgress(project.progress);
    this.emit("project");
  }

  /** @param {ImageEntry} image */
  setImage(image) {
    const before = this.images.get(image.id);
    if (before && JSON.stringify(before) === JSON.stringify(image)) return;
    this.images.set(image.id, image);
    this.emit(before ? "image" : "images", image.id);
  }

  /** @param {import("./types.js").Progress} progress */
  setProgress(progress) {
    this.progress = progress;
    this.emit("progress");
  }

  /** Adds a label that was just created, before the project's next event. @param {import("./types.js").Label} label */
  addLabel(label) {
    if (!this.label(label.id)) this.#setLabels([...this.labels, label]);
    this.setActive(label.id);
  }

  /** @param {number|null} id */
  setActive(id) {
    if (id === this.active) return;
    this.active = id;
    this.emit("active");
  }

  /** @param {Record<string, any>} change */
  setView(change) {
    Object.assign(this.view, change);
    try {
      localStorage.setItem(STORAGE_KEY, JSON.stringify(this.view));
    } catch {
      // private windows may refuse; the view then lasts until the page is closed
    }
    this.emit("view", change);
  }

  /** @param {"connecting"|"open"|"lost"} state */
  setConnection(state) {
    if (state === this.connection) return;
    this.connection = state;
    this.emit("connection");
  }

  /** @param {number|null|undefined} id */
  label(id) {
    return this.labels.find((label) => label.id === id) ?? null;
  }

  /** Images that pass the filter, in the chosen order. @returns {ImageEntry[]} */
  shown() {
    const chosen = [...this.images.values()].filter(FILTERS[this.view.filter] ?? FILTERS.all);
    if (this.view.order === "uncertainty") chosen.sort((a, b) => priority(b) - priority(a));
    return chosen;
  }

  /** @param {import("./types.js").Label[]} labels */
  #setLabels(labels) {
    if (JSON.stringify(labels) === JSON.stringify(this.labels)) return;
    this.labels = labels;
    if (!this.label(this.active)) this.setActive(labels[0]?.id ?? null);
    this.emit("labels");
  }

  /** @param {ImageEntry[]} images */
  #setImages(images) {
    const before = this.images;
    this.images = new Map(images.map((image) => [image.id, image]));
    const same = before.size === images.length && images.every((image) => before.has(image.id));
    if (!same) this.emit("images");
    else for (const image of images) if (JSON.stringify(before.get(image.id)) !== JSON.stringify(image)) this.emit("image", image.id);
  }
}

/** @param {ImageEntry} image @returns {number} rank by uncertainty: failed first, then the most uncertain, examples last */
function priority(image) {
  if (image.state === "failed") return 3;
  if (image.supports.length || image.checked) return -1;
  return image.confidence === null ? 0 : 1 + (1 - image.confidence);
}

/** @type {Record<string, (image: ImageEntry) => boolean>} */
export const FILTERS = {
  all: () => true,
  labelled: (image) => image.supports.length > 0,
  uncertain: (image) => image.state === "done" && !image.supports.length && !image.checked && image.confidence !== null && image.confidence < UNCERTAIN_BELOW,
  absent: (image) => image.state === "done" && !image.supports.length && Object.values(image.present).length > 0 && !Object.values(image.present).some(Boolean),
  failed: (image) => image.state === "failed",
};

/** @returns {Object} the view of the last visit */
function savedView() {
  try {
    const saved = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "{}");
    return { ...saved, filter: "all", order: saved.order === "uncertainty" ? saved.order : "folder" };
  } catch {
    return {};
  }
}
