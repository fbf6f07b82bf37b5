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

  /** Fetch everything, then listen. The stream is opened first, so that nothing falls between the two. */
  open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource(api.eventsAddress());
    this.#source = source;
    source.addEventListener("open", () => this.#refresh(source));
    source.addEventListener("error", () => this.#lost(source));
    this.#hear(source, "project", (project) => this.store.setProject(project));
    this.#hear(source, "picture", (picture) => this.store.setPicture(picture));
    this.#hear(source, "progress", (progress) => this.store.setProgress(progress));
  }

  /** @param {EventSource} source @param {string} name @param {(data: any) => void} action */
  #hear(source, name, action) {
    source.addEventListener(name, (event) => source === this.#source && action(JSON.parse(event.data)));
  }

  /** @param {EventSource} source */
  async #refresh(source) {
    try {
      this.store.info = await api.info();
      this.store.setProject(await api.project());
      this.#wait = FIRST_WAIT;
      this.store.setConnection("open");
    } catch (error) {
      if (error instanceof ApiError && !error.temporary) this.refused(error);
      this.#lost(source);
    }
  }

  /** @param {EventSource} source */
  #lost(source) {
    if (source !== this.#source) return;
    source.close();
    this.store.setConnection("lost");
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.open(), this.#wait);
    this.#wait = Math.min(2 * this.#wait, LONGEST_WAIT);
  }
}
