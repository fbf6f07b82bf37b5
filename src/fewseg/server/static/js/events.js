/** Listens to the server's events, and finds it again when it was lost. */

import { api, ApiError } from "./api.js";

const FIRST_WAIT = 500;
const LONGEST_WAIT = 8000; // milliseconds between attempts

/** @typedef {import("./store.js").Store} Store */

/** Keeps the store in step with the server for as long as the page lives. */
export class Connection {
  #wait = FIRST_WAIT;
  /** @type {EventSource|null} */
  #source = null;
  /** @type {ReturnType<typeof setTimeout>|undefined} */
  #timer;

  /**
   * @param {Store} store
   * @param {(error: ApiError) => void} refused called when the server answers, but not this page
   * @param {() => void} moved called when another folder is served than the page was opened with
   */
  constructor(store, refused, moved) {
    this.store = store;
    this.refused = refused;
    this.moved = moved;
    addEventListener("online", () => this.open());
  }

  /** The stream begins with the whole project; all changes come through it too, so that they come in their order. */
  open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource(api.eventsAddress());
    this.#source = source;
    source.addEventListener("error", () => this.#lost(source));
    // What the stream says waits, in its order, until it is known that it speaks of this page's folder.
    const known = new Promise((resolve) => source.addEventListener("open", () => resolve(this.#found(source))));
    const hear = (/** @type {string} */ name, /** @type {(data: any) => void} */ action) =>
      source.addEventListener(name, async (event) => {
        if ((await known) && source === this.#source) action(JSON.parse(event.data));
      });
    hear("project", (project) => {
      this.store.setProject(project);
      this.store.setConnection("open");
    });
    hear("picture", (picture) => this.store.setPicture(picture));
    hear("progress", (progress) => this.store.setProgress(progress));
  }

  /** @param {EventSource} source @returns {Promise<boolean>} whether the server that answered serves this page's folder */
  async #found(source) {
    try {
      const info = await api.info();
      if (source !== this.#source) return false;
      const same = !this.store.info || info.project === this.store.info.project;
      if (!same) this.moved();
      else this.store.info = info;
      this.#wait = FIRST_WAIT;
      return same;
    } catch {
      this.#lost(source);
      return false;
    }
  }

  /** A stream that fails does not say why: another request does. */
  async #ask() {
    const error = await api.info().then(() => null, (/** @type {unknown} */ reason) => reason);
    if (error instanceof ApiError && !error.temporary) this.refused(error);
  }

  /** @param {EventSource} source */
  #lost(source) {
    if (source !== this.#source) return;
    source.close();
    this.store.setConnection("lost");
    this.#ask();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.open(), this.#wait);
    this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT);
  }
}
