/**
 * Saves painted masks automatically: a draft is written to the browser's database at once, uploaded after a pause, and
 * deleted only when the server has confirmed it.
 */

import { api, ApiError } from "./api.js";
import { showError, notice } from "./notices.js";
import { canvas, encodedMask } from "./masks.js";
import { isDecided } from "./store.js";

/** @typedef {import("./types.js").ImageEntry} ImageEntry */
/** @typedef {import("./drafts.js").Draft} Draft */

const UPLOAD_DELAY = 1200; // milliseconds without a stroke before a mask is uploaded
const RETRY_DELAY = 4000; // milliseconds before another attempt after the server did not answer
const KEEPALIVE_BYTES = 60_000; // size limit of a request that outlives the page

/**
 * @typedef {Object} Job one label of one image
 * @property {string} key
 * @property {ImageEntry} image
 * @property {number} label
 * @property {number} version of the strokes
 * @property {HTMLCanvasElement|null} canvas the painted canvas; null for a draft of an earlier visit
 * @property {Draft|null} draft
 * @property {Promise<void>|null} drafting
 * @property {Promise<void>|null} uploading
 * @property {number|undefined} base revision of the mask that the strokes were painted on
 * @property {boolean} withdrawn the strokes were undone: what they made is withdrawn
 * @property {boolean} uploaded the image is an example of it on the server, even if the store is not up to date
 * @property {boolean} denied the server requires its token
 * @property {boolean} refused the server rejected this version
 * @property {ReturnType<typeof setTimeout>|undefined} timer
 */

/** Events: `state` whenever `state` may have changed; `saved` (detail: the job and the server's image). */
export class Saver extends EventTarget {
  /** @type {Map<string, Job>} */
  #jobs = new Map();
  /** Whether a stroke is in progress: nothing is uploaded meanwhile. */
  painting = false;

  /** @param {import("./store.js").Store} store @param {import("./drafts.js").Drafts} drafts */
  constructor(store, drafts) {
    super();
    this.store = store;
    this.drafts = drafts;
    store.on("connection", () => store.connection === "open" && this.flush());
    document.addEventListener("visibilitychange", () => document.hidden && this.flush());
    addEventListener("pagehide", () => this.#uploadOnExit());
  }

  /** @returns {"saved"|"unsaved"|"saving"|"offline"|"refused"} `offline`: no connection, the drafts are in the browser */
  get state() {
    const jobs = [...this.#jobs.values()];
    if (!jobs.length) return "saved";
    if (jobs.some((job) => job.refused)) return "refused";
    if (this.store.connection === "lost") return "offline";
    return jobs.some((job) => job.uploading) ? "saving" : "unsaved";
  }

  /** The canvas or draft that is not uploaded yet. @param {ImageEntry} image @param {number} label @returns {{canvas?: HTMLCanvasElement|null, draft?: Draft|null}} */
  unsaved(image, label) {
    return this.#jobs.get(this.#key(image, label)) ?? {};
  }

  /** @param {ImageEntry} image @param {number} label */
  pending(image, label) {
    return this.#jobs.has(this.#key(image, label));
  }

  /** Schedules the save of a changed mask. @param {ImageEntry} image @param {number} label @param {HTMLCanvasElement} canvas @param {number} [base] revision of the mask it was painted on */
  maskChanged(image, label, canvas, base) {
    const job = this.#job(image, label);
    job.base ??= base;
    job.withdrawn = false;
    job.version = Math.max(Date.now(), job.version + 1);
    job.canvas = canvas;
    job.refused = false;
    this.#saveDraft(job).catch(showError);
    this.#schedule(job, UPLOAD_DELAY);
    this.#emit();
  }

  /**
   * Reverts a mask to its state before painting: drafts that were not uploaded are discarded, and an example that was
   * made of them is withdrawn.
   * @param {ImageEntry} image @param {number} label @param {boolean} uploaded whether the image became an example
   */
  revert(image, label, uploaded) {
    const job = this.#jobs.get(this.#key(image, label));
    if (uploaded || job?.uploaded || job?.uploading) {
      this.#job(image, label).uploaded = true;
      this.maskChanged(image, label, canvas(1, 1));
      this.#job(image, label).withdrawn = true;
    } else if (job) this.#discard(job);
    this.#emit();
  }

  /** @returns {Promise<void>} when every draft is in the browser's database */
  async saveDrafts() {
    await Promise.all([...this.#jobs.values()].map((job) => this.#saveDraft(job)));
  }

  /** Uploads all pending masks now. @returns {Promise<void>} when every attempt has ended */
  async flush() {
    await Promise.all([...this.#jobs.values()].filter((job) => !job.refused).map((job) => this.#upload(job)));
  }

  /** Uploads drafts of an earlier visit that the server never confirmed. */
  async resume() {
    let restored = 0;
    for (const draft of await this.drafts.of(this.#project())) {
      const image = this.store.images.get(draft.picture);
      const same = image && image.name === draft.name && image.width === draft.width && image.height === draft.height;
      // Where its image or label is gone the draft stays, as both may come back.
      if (!same || !this.store.label(draft.label) || this.#jobs.has(draft.key)) continue;
      const job = this.#job(image, draft.label);
      Object.assign(job, { version: draft.version, base: draft.base, withdrawn: Boolean(draft.withdrawn), draft });
      restored++;
      this.#schedule(job, 0);
    }
    if (restored) notice(`Restored unsaved strokes of ${restored === 1 ? "one mask" : `${restored} masks`} from your last visit.`);
    this.#emit();
  }

  #project() {
    return this.store.info?.project ?? "";
  }

  /** @param {ImageEntry} image @param {number} label */
  #key(image, label) {
    return `${this.#project()}\n${image.id}\n${label}`;
  }

  /** @param {ImageEntry} image @param {number} label @returns {Job} */
  #job(image, label) {
    const key = this.#key(image, label);
    let job = this.#jobs.get(key);
    if (!job) {
      job = { key, image, label, version: 0, canvas: null, draft: null, drafting: null, uploading: null, base: undefined, withdrawn: false, uploaded: false, denied: false, refused: false, timer: undefined };
      this.#jobs.set(key, job);
    }
    return job;
  }

  #emit() {
    this.dispatchEvent(new CustomEvent("state"));
  }

  /** @param {Job} job @param {number} wait */
  #schedule(job, wait) {
    clearTimeout(job.timer);
    job.timer = setTimeout(() => (this.painting ? this.#schedule(job, UPLOAD_DELAY) : this.#upload(job)), wait);
  }

  /** Discards a job whose strokes were undone before the upload. @param {Job} job */
  #discard(job) {
    clearTimeout(job.timer);
    job.canvas = null; // ends the loop of #saveDraft
    this.#jobs.delete(job.key);
    const forget = () => this.drafts.remove(job.key, job.version).catch(() => {});
    Promise.resolve(job.drafting).then(forget, forget);
  }

  /** Writes the latest version of the mask to the browser's database. @param {Job} job @returns {Promise<void>} */
  #saveDraft(job) {
    job.drafting ??= (async () => {
      try {
        while (job.canvas && job.draft?.version !== job.version) await this.#writeDraft(job);
      } finally {
        job.drafting = null;
      }
    })();
    return job.drafting;
  }

  /** @param {Job} job */
  async #writeDraft(job) {
    const { key, image, label, version, base } = job;
    const painted = /** @type {HTMLCanvasElement} */ (job.canvas);
    const { blob, count } = await encodedMask(painted, painted.width, painted.height);
    const { id, name, width, height } = image;
    const fullSize = painted.width === width && painted.height === height;
    job.draft = { key, project: this.#project(), picture: id, name, width, height, label, version, count, mask: blob, fullSize, base, withdrawn: job.withdrawn };
    await this.drafts.put(job.draft).catch(() => {}); // no room in the browser: it is still uploaded
  }

  /** @param {Job} job @returns {Promise<void>} */
  #upload(job) {
    clearTimeout(job.timer);
    job.uploading ??= (async () => {
      this.#emit();
      try {
        await this.#saveDraft(job);
        // While the connection is lost another folder's server might answer; everything is uploaded when it is back.
        if (job.draft && this.store.connection === "open" && this.#jobs.get(job.key) === job) await this.#uploadDraft(job, job.draft);
      } catch (error) {
        this.#failed(job, error);
      } finally {
        job.uploading = null;
        this.#emit();
      }
    })();
    return job.uploading;
  }

  /** @param {Job} job @param {Draft} draft */
  async #uploadDraft(job, draft) {
    const known = this.store.images.get(draft.picture);
    const painted = job.uploaded || isDecided(known, draft.label);
    let image = null;
    if (draft.withdrawn) {
      if (painted) image = await api.removeAnnotation(draft.picture, draft.label).catch(unlessGone);
      job.uploaded = false;
    } else if (draft.count || painted || known?.masks[draft.label]) { // an empty mask: the label is not there
      image = await api.annotate(draft.picture, draft.label, await fullSizeMask(draft), draft.base);
      job.uploaded = true;
      if (!draft.count) notice(`No ${this.store.label(draft.label)?.name} in ${draft.name}: everything was erased.`, "info", undefined, "decision");
    }
    await this.drafts.remove(draft.key, draft.version).catch(() => {});
    if (job.version === draft.version) this.#jobs.delete(job.key);
    else {
      if (image && !image.merged) job.base = image.masks[draft.label]; // else the canvas lacks what somebody else painted
      this.#schedule(job, UPLOAD_DELAY);
    }
    if (image?.merged) notice("Somebody else painted here, too: both are kept.");
    this.dispatchEvent(new CustomEvent("saved", { detail: { job, image: image?.id ? image : null } }));
  }

  /** @param {Job} job @param {unknown} error */
  #failed(job, error) {
    const denied = error instanceof ApiError && error.denied;
    if (denied && !job.denied) showError(error); // once: another tab may bring the token
    job.denied = denied;
    if (denied || (error instanceof ApiError && error.temporary)) {
      this.#schedule(job, RETRY_DELAY);
      return;
    }
    showError(error);
    job.refused = true; // the draft stays: a missing image or label may come back
  }

  /** The page is being closed: uploads small masks; the others stay in the browser's database. */
  #uploadOnExit() {
    if (this.store.connection !== "open") return;
    for (const job of this.#jobs.values()) {
      const { draft } = job;
      // There is no time to enlarge a mask that was painted at a smaller size.
      if (!draft?.count || !draft.fullSize || job.uploading || draft.mask.size > KEEPALIVE_BYTES) continue;
      api.annotate(draft.picture, draft.label, draft.mask, draft.base, true).catch(() => {});
    }
  }
}

/** Ignores that an example to withdraw does not exist. @param {unknown} error @returns {null} */
function unlessGone(error) {
  if (error instanceof ApiError && error.status === 404) return null;
  throw error;
}

/** The draft's mask as a PNG at the image's size. @param {Draft} draft @returns {Promise<Blob>} */
async function fullSizeMask({ mask, fullSize, width, height }) {
  return fullSize ? mask : (await encodedMask(mask, width, height)).blob;
}
