/**
 * Sends what was painted to the server by itself: strokes are kept in the browser at once, sent when the hand rests, and
 * forgotten here only when the server has confirmed them.
 */

import { api, ApiError } from "./api.js";
import { complain, notice } from "./notices.js";
import { canvas, writtenMask } from "./masks.js";

/** @typedef {import("./types.js").Picture} Picture */
/** @typedef {import("./drafts.js").Draft} Draft */

const REST = 1200; // milliseconds without a stroke before a mask is sent
const AGAIN = 4000; // milliseconds before another attempt after the server did not answer
const LAST_WORD = 60_000; // bytes that a request may carry which outlives the page

/**
 * @typedef {Object} Job one label of one picture
 * @property {string} key
 * @property {Picture} picture
 * @property {number} label
 * @property {number} version of the strokes
 * @property {HTMLCanvasElement|null} canvas what is painted on; null for a draft of an earlier visit
 * @property {Draft|null} draft
 * @property {Promise<void>|null} keeping
 * @property {Promise<void>|null} sending
 * @property {boolean} sent the server made the picture an example of it, whether the store knows or not
 * @property {boolean} denied the server wants its token
 * @property {boolean} refused the server will not take this version
 * @property {ReturnType<typeof setTimeout>|undefined} timer
 */

/** Events: `state` whenever `state` may have changed; `saved` (detail: the job and the server's picture). */
export class Saver extends EventTarget {
  /** @type {Map<string, Job>} */
  #jobs = new Map();
  /** Whether a stroke is being drawn: nothing is sent half way. */
  painting = false;

  /** @param {import("./store.js").Store} store @param {import("./drafts.js").Drafts} drafts */
  constructor(store, drafts) {
    super();
    this.store = store;
    this.drafts = drafts;
    store.on("connection", () => store.connection === "open" && this.flush());
    document.addEventListener("visibilitychange", () => document.hidden && this.flush());
    addEventListener("pagehide", () => this.#lastWord());
  }

  /** @returns {"saved"|"unsaved"|"saving"|"kept"|"refused"} `kept`: the server is away, the browser has it */
  get state() {
    const jobs = [...this.#jobs.values()];
    if (!jobs.length) return "saved";
    if (jobs.some((job) => job.refused)) return "refused";
    if (this.store.connection === "lost") return "kept";
    return jobs.some((job) => job.sending) ? "saving" : "unsaved";
  }

  /** Strokes that the server does not have yet. @param {Picture} picture @param {number} label @returns {{canvas?: HTMLCanvasElement|null, draft?: Draft|null}} */
  unsent(picture, label) {
    return this.#jobs.get(this.#key(picture, label)) ?? {};
  }

  /** @param {Picture} picture @param {number} label */
  pending(picture, label) {
    return this.#jobs.has(this.#key(picture, label));
  }

  /** Takes note that a mask was changed. @param {Picture} picture @param {number} label @param {HTMLCanvasElement} canvas */
  touch(picture, label, canvas) {
    const job = this.#job(picture, label);
    job.version = Math.max(Date.now(), job.version + 1);
    job.canvas = canvas;
    job.refused = false;
    this.#keep(job).catch(complain);
    this.#later(job, REST);
    this.#say();
  }

  /**
   * Takes note that a mask is again what it was before anybody painted: strokes that were not sent are forgotten, an
   * example that was made of them is withdrawn.
   * @param {Picture} picture @param {number} label @param {boolean} sent whether the picture became an example
   */
  revert(picture, label, sent) {
    const job = this.#jobs.get(this.#key(picture, label));
    if (sent || job?.sent || job?.sending) {
      this.#job(picture, label).sent = true;
      this.touch(picture, label, canvas(1, 1));
    } else if (job) this.#drop(job);
    this.#say();
  }

  /** @returns {Promise<void>} when the browser's store has every stroke */
  async keep() {
    await Promise.all([...this.#jobs.values()].map((job) => this.#keep(job)));
  }

  /** Sends what waits, now. @returns {Promise<void>} when every attempt has ended */
  async flush() {
    await Promise.all([...this.#jobs.values()].filter((job) => !job.refused).map((job) => this.#send(job)));
  }

  /** Takes up strokes of an earlier visit that the server never confirmed. */
  async resume() {
    let found = 0;
    for (const draft of await this.drafts.of(this.#project())) {
      const picture = this.store.pictures.get(draft.picture);
      const same = picture && picture.name === draft.name && picture.width === draft.width && picture.height === draft.height;
      // Where its picture or label is gone there is nothing to save it to; it waits, for both may come back.
      if (!same || !this.store.label(draft.label) || this.#jobs.has(draft.key)) continue;
      const job = this.#job(picture, draft.label);
      Object.assign(job, { version: draft.version, draft });
      found++;
      this.#later(job, 0);
    }
    if (found) notice(`Restored unsaved strokes of ${found === 1 ? "one mask" : `${found} masks`} from your last visit.`);
    this.#say();
  }

  #project() {
    return this.store.info?.project ?? "";
  }

  /** @param {Picture} picture @param {number} label */
  #key(picture, label) {
    return `${this.#project()}\n${picture.id}\n${label}`;
  }

  /** @param {Picture} picture @param {number} label @returns {Job} */
  #job(picture, label) {
    const key = this.#key(picture, label);
    let job = this.#jobs.get(key);
    if (!job) {
      job = { key, picture, label, version: 0, canvas: null, draft: null, keeping: null, sending: null, sent: false, denied: false, refused: false, timer: undefined };
      this.#jobs.set(key, job);
    }
    return job;
  }

  #say() {
    this.dispatchEvent(new CustomEvent("state"));
  }

  /** @param {Job} job @param {number} wait */
  #later(job, wait) {
    clearTimeout(job.timer);
    job.timer = setTimeout(() => (this.painting ? this.#later(job, REST) : this.#send(job)), wait);
  }

  /** @param {Job} job its strokes were taken back before they were sent */
  #drop(job) {
    clearTimeout(job.timer);
    job.canvas = null; // ends the keeping
    this.#jobs.delete(job.key);
    const forget = () => this.drafts.remove(job.key, job.version).catch(() => {});
    Promise.resolve(job.keeping).then(forget, forget);
  }

  /** Writes the newest strokes into the browser's store. @param {Job} job @returns {Promise<void>} */
  #keep(job) {
    job.keeping ??= (async () => {
      try {
        while (job.canvas && job.draft?.version !== job.version) await this.#keepOnce(job);
      } finally {
        job.keeping = null;
      }
    })();
    return job.keeping;
  }

  /** @param {Job} job */
  async #keepOnce(job) {
    const { key, picture, label, version } = job;
    const painted = /** @type {HTMLCanvasElement} */ (job.canvas);
    const { blob, count } = await writtenMask(painted, painted.width, painted.height);
    const { id, name, width, height } = picture;
    job.draft = { key, project: this.#project(), picture: id, name, width, height, label, version, count, mask: blob };
    await this.drafts.put(job.draft).catch(() => {}); // no room in the browser: the server still gets it
  }

  /** @param {Job} job @returns {Promise<void>} */
  #send(job) {
    clearTimeout(job.timer);
    job.sending ??= (async () => {
      this.#say();
      try {
        await this.#keep(job);
        // While the connection is lost it is not known whose server answers; when it is back, everything is sent.
        if (job.draft && this.store.connection === "open" && this.#jobs.get(job.key) === job) await this.#deliver(job, job.draft);
      } catch (error) {
        this.#failed(job, error);
      } finally {
        job.sending = null;
        this.#say();
      }
    })();
    return job.sending;
  }

  /** @param {Job} job @param {Draft} draft */
  async #deliver(job, draft) {
    const painted = job.sent || this.store.pictures.get(draft.picture)?.supports.includes(draft.label);
    let picture = null;
    if (draft.count) {
      const { blob } = await writtenMask(draft.mask, draft.width, draft.height);
      picture = await api.annotate(draft.picture, draft.label, blob);
      job.sent = true;
    } else if (painted) {
      picture = await api.withdraw(draft.picture, draft.label).catch(unlessGone);
      job.sent = false;
    } else {
      notice("An empty mask teaches nothing: the mask that was found stays. Paint a part of it to correct it.");
    }
    await this.drafts.remove(draft.key, draft.version).catch(() => {});
    if (job.version === draft.version) this.#jobs.delete(job.key);
    else this.#later(job, REST);
    this.dispatchEvent(new CustomEvent("saved", { detail: { job, picture: picture?.id ? picture : null } }));
  }

  /** @param {Job} job @param {unknown} error */
  #failed(job, error) {
    const denied = error instanceof ApiError && error.denied;
    if (denied && !job.denied) complain(error); // once: the token may come with another tab
    job.denied = denied;
    if (denied || (error instanceof ApiError && error.temporary)) {
      this.#later(job, AGAIN);
      return;
    }
    complain(error);
    job.refused = true; // the draft stays: what was not found may come back
  }

  /** The page goes: small masks may still travel. What does not arrive is in the browser's store. */
  #lastWord() {
    if (this.store.connection !== "open") return;
    for (const job of this.#jobs.values()) {
      const { draft } = job;
      if (!draft?.count || job.sending || draft.mask.size > LAST_WORD) continue;
      // A working-size mask is not the picture's size: only equal ones can go without the worker's help.
      if (job.canvas?.width !== draft.width || job.canvas.height !== draft.height) continue;
      api.annotate(draft.picture, draft.label, draft.mask, true).catch(() => {});
    }
  }
}

/** An example that is not there need not be withdrawn. @param {unknown} error @returns {null} */
function unlessGone(error) {
  if (error instanceof ApiError && error.status === 404) return null;
  throw error;
}
