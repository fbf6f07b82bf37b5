/** The page's state. Modules read it, change it through its methods, and listen to its events. */

/** @typedef {import("./types.js").ImageEntry} ImageEntry */

export const UNCERTAIN_BELOW = 0.6; // confidence below which a mask counts as uncertain
const POSSIBLE = 0.5; // share of the presence threshold from which a label is nearly found
const STORAGE_KEY = "fewseg.view";
const DEFAULTS = {
  filter: "all", order: "folder", label: 0, search: "", size: 190, advance: true, opacity: 0.5, masks: true, uncertainty: false, brush: 36, region: 0.5,
};

/**
 * Events: `labels`, `images` (images were added or removed), `image` (one changed; detail: its id), `progress`,
 * `project` (revision, undo or settings), `active` (the label to paint with), `view` (filter, order, display), `connection`.
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
  /** Whether a pixel has one label at most. */
  exclusive = true;
  view = { ...DEFAULTS, .../** @type {any} */ (savedView()) };

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
    this.exclusive = project.exclusive;
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

  /** Whether anything was taught. */
  get taught() {
    return this.labels.some((label) => label.shots > 0);
  }

  /** Images that pass the filters, in the chosen order. @returns {ImageEntry[]} */
  shown() {
    const passes = FILTERS[this.view.filter] ?? FILTERS.all;
    const { label, order } = this.view;
    const words = this.view.search.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = [...this.images.values()].filter(
      (image) => passes(image, this.labels) && (!label || concerns(image, this.label(label), this.view.filter)) && words.every((word) => image.name.toLowerCase().includes(word)),
    );
    const rank = ORDERS[order];
    return rank ? chosen.sort((a, b) => rank(b, label) - rank(a, label)) : order === "name" ? chosen.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true })) : chosen;
  }

  /** The images that show what was nearly found of a label, the likeliest first. @param {number} label @returns {ImageEntry[]} */
  possible(label) {
    const images = [...this.images.values()].filter((image) => isPossible(image, this.label(label)));
    return images.sort((a, b) => b.scores[label] - a.scores[label]);
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

/** @typedef {import("./types.js").Label} Label */

/** Whether a mask of the label is shown. @param {ImageEntry} image @param {number} label */
export const has = (image, label) => Boolean(image.masks[label] && image.present[label]);

/** Whether an image is listed where one label is asked for. @param {ImageEntry} image @param {Label|null} label @param {string} filter */
function concerns(image, label, filter) {
  if (!label) return true; // it was deleted
  if (filter === "possible") return isPossible(image, label);
  if (filter === "labelled") return image.supports.includes(label.id);
  return filter === "absent" ? image.present[label.id] === false : has(image, label.id);
}

/** Whether a person decided about the label in the image. @param {ImageEntry|undefined} image @param {number} label */
export const isDecided = (image, label) => [image?.supports, image?.confirmed, image?.absent].some((labels) => labels?.includes(label));

/** Labels whose mask is shown and that nobody decided about. @param {ImageEntry} image @returns {number[]} */
export function undecided(image) {
  return Object.keys(image.present).map(Number).filter((label) => image.present[label] && !isDecided(image, label));
}

/** Whether a label that is not shown was nearly found. @param {ImageEntry} image @param {Label|null} label */
export function isPossible(image, label) {
  if (!label || image.state !== "done" || image.present[label.id] !== false || image.absent.includes(label.id)) return false;
  return image.scores[label.id] >= POSSIBLE * label.presence_threshold;
}

/** @param {ImageEntry} image @returns {number} first what to check: shown masks, the least sure first, then the rest, then what is checked */
function openFirst(image) {
  if (image.checked || image.state === "failed") return -1;
  return image.confidence === null ? Math.max(0, ...Object.values(image.scores)) : 2 - image.confidence;
}

/** The value of a label, or the greatest of all. @param {Record<string, number>} values @param {number} label */
const valueOf = (values, label) => (label ? (values[label] ?? -1) : Math.max(-1, ...Object.values(values)));

/** @type {Record<string, (image: ImageEntry, label: number) => number>} the greatest first; label: 0 for all */
const ORDERS = {
  open: openFirst,
  uncertainty: (image, label) => {
    if (image.state === "failed") return 3;
    if (image.checked) return -1;
    const confidence = label ? (image.present[label] ? image.confidences[label] : undefined) : image.confidence;
    return confidence === undefined || confidence === null ? 0 : 2 - confidence;
  },
  presence: (image, label) => valueOf(image.scores, label),
  area: (image, label) => valueOf(Object.fromEntries(Object.entries(image.areas).filter(([id]) => image.present[id])), label),
};

/** @type {Record<string, (image: ImageEntry, labels: Label[]) => boolean>} */
export const FILTERS = {
  all: () => true,
  open: (image) => !image.checked && image.state !== "failed",
  checked: (image) => image.checked,
  labelled: (image) => image.supports.length > 0,
  uncertain: (image) => image.state === "done" && !image.checked && image.confidence !== null && image.confidence < UNCERTAIN_BELOW,
  possible: (image, labels) => !image.checked && labels.some((label) => isPossible(image, label)),
  absent: (image) => image.state === "done" && !image.checked && Object.values(image.present).length > 0 && !Object.values(image.present).some(Boolean),
  failed: (image) => image.state === "failed",
};

/** @returns {Object} the view of the last visit */
function savedView() {
  try {
    const saved = JSON.parse(localStorage.getItem(STORAGE_KEY) ?? "{}");
    return { ...saved, filter: "all", search: "", label: 0 };
  } catch {
    return {};
  }
}
