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

  /** @param {Store} store @param {(error: ApiError) => void} refused called when the server answers, but not this page */
  constructor(store, refused) {
    this.store = store;
    this.refused = refused;
    addEventListener("online", () => this.open());
  }

  /** The stream begins with the whole project; all changes come through it too, so that they come in their order. */
  open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource(api.eventsAddress());
    this.#source = source;
    source.addEventListener("error", () => this.#lost(source));
    this.#hear(source, "project", (project) => {
      this.store.setProject(project);
      if (this.store.connection !== "open") this.#found(source);
    });
    this.#hear(source, "picture", (picture) => this.store.setPicture(picture));
    this.#hear(source, "progress", (progress) => this.store.setProgress(progress));
  }

  /** @param {EventSource} source @param {string} name @param {(data: any) => void} action */
  #hear(source, name, action) {
    source.addEventListener(name, (event) => source === this.#source && action(JSON.parse(event.data)));
  }

  /** @param {EventSource} source */
  async #found(source) {
    try {
      this.store.info = await api.info();
      if (source !== this.#source) return;
      this.#wait = FIRST_WAIT;
      this.store.setConnection("open");
    } catch {
      this.#lost(source);
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
