/** The region that the server proposes: asked for, looked at, then added, taken away or discarded. */

import { api } from "./api.js";
import { settled } from "./dom.js";
import { complain, notice } from "./notices.js";
import { paintedMask } from "./masks.js";

export class Assist {
  /** @type {Object|null} what was asked last */
  #question = null;
  /** @type {AbortController|null} */
  #running = null;

  /** @param {import("./desk.js").Desk} desk */
  constructor(desk) {
    this.desk = desk;
    /** Asks again, when the wanted size of regions has changed. */
    this.resize = settled(() => this.#question && this.#send(), 150);
  }

  get asking() {
    return this.#running !== null;
  }

  /** Lets the server look at the picture, so that the first press is answered quickly. */
  prepare() {
    if (this.desk.picture) api.prepare(this.desk.picture.id).catch(() => {}); // a matter of speed only
  }

  /** @param {{points?: number[][], box?: number[], scribble?: number[][], mode: string}} question coordinates in picture pixels */
  ask(question) {
    this.#question = { points: [], box: null, scribble: null, ...question };
    this.#send();
  }

  /** @param {boolean} erase takes the region out of the mask instead of adding it */
  accept(erase) {
    const { region } = this.desk;
    if (!region) return;
    const layer = this.desk.beginEdit();
    if (!layer) return; // the region stays on offer
    layer.blend(region.bitmap, erase);
    this.desk.endEdit();
    this.discard();
  }

  discard() {
    this.#running?.abort();
    this.#running = null;
    this.#question = null;
    this.desk.setRegion(null);
  }

  async #send() {
    const { picture, layer } = this.desk;
    if (!picture || !layer) return;
    this.#running?.abort();
    const running = new AbortController();
    this.#running = running;
    this.desk.say("region");
    try {
      const ask = { ...this.#question, label: layer.label, size: this.desk.store.view.region };
      const blob = await api.assist(picture.id, ask, running.signal);
      const bitmap = await paintedMask({ blob }, layer.canvas.width, layer.canvas.height, layer.colour);
      if (running.signal.aborted) return;
      this.#running = null;
      this.desk.setRegion({ bitmap });
    } catch (error) {
      if (running.signal.aborted) return;
      this.#running = null;
      this.desk.setRegion(null);
      error instanceof Error && error.message ? complain(error) : notice("No region was found there.", "error");
    }
  }
}
