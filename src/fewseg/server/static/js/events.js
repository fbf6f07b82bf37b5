/** Listens to the server's events, and reconnects after the connection was lost. */

import { api, ApiError } from "./api.js";

const MIN_DELAY = 500;
const MAX_DELAY = 8000; // milliseconds between attempts

/** @typedef {import("./store.js").Store} Store */

/** Keeps the store up to date with the server. */
export class Connection {
  #delay = MIN_DELAY;
  /** @type {EventSource|null} */
  #source = null;
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #timer;

  /**
   * @param {Store} store
   * @param {(error: ApiError) => void} refused called when the server refuses this page's requests
   * @param {() => void} folderChanged called when the server serves another folder than before
   */
  constructor(store, refused, folderChanged) {
    this.store = store;
    this.refused = refused;
    this.folderChanged = folderChanged;
    addEventListener("online", () => this.open());
  }

  /** Opens the stream, which begins with the whole project; all changes come through it, and so in order. */
  open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource(api.eventsAddress());
    this.#source = source;
    source.addEventListener("error", () => this.#lost(source));
    // Events wait, in order, until the server is known to serve this page's folder.
    const known = new Promise((resolve) => source.addEventListener("open", () => resolve(this.#isSameFolder(source))));
    const on = (/** @type {string} */ name, /** @type {(data: any) => void} */ action) =>
      source.addEventListener(name, async (event) => {
        if ((await known) && source === this.#source) action(JSON.parse(event.data));
      });
    on("project", (project) => {
      this.store.setProject(project);
      this.store.setConnection("open");
    });
    on("picture", (image) => this.store.setImage(image));
    on("progress", (progress) => this.store.setProgress(progress));
  }

  /** @param {EventSource} source @returns {Promise<boolean>} whether the server serves this page's folder */
  async #isSameFolder(source) {
    try {
      const info = await api.info();
      if (source !== this.#source) return false;
      const same = !this.store.info || info.project === this.store.info.project;
      if (!same) this.folderChanged();
      else this.store.info = info;
      this.#delay = MIN_DELAY;
      return same;
    } catch {
      this.#lost(source);
      return false;
    }
  }

  /** Finds the reason of a failed stream by another request, as the stream gives none. */
  async #findReason() {
    const error = await api.info().then(() => null, (/** @type {unknown} */ reason) => reason);
    if (error instanceof ApiError && !error.temporary) this.refused(error);
  }

  /** @param {EventSource} source */
  #lost(source) {
    if (source !== this.#source) return;
    source.close();
    this.store.setConnection("lost");
    this.#findReason();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.open(), this.#delay);
    this.#delay = Math.min(2 * this.#delay, MAX_DELAY);
  }
}
