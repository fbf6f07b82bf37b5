/** Regions proposed by the server: requested, previewed, then added, subtracted or discarded. */

import { api } from "./api.js";
import { settled } from "./dom.js";
import { showError, notice } from "./notices.js";
import { decodedMask } from "./masks.js";

export class Assist {
  /** @type {Object|null} the last request's body */
  #body = null;
  /** @type {AbortController|null} */
  #running = null;

  /** @param {import("./canvas-controller.js").CanvasController} controller */
  constructor(controller) {
    this.controller = controller;
    /** Repeats the request after the size of regions has changed. */
    this.resize = settled(() => this.#body && this.#send(), 150);
  }

  get pending() {
    return this.#running !== null;
  }

  /** Lets the server prepare the image, so that the first click is answered quickly. */
  prepare() {
    if (this.controller.image) api.prepare(this.controller.image.id).catch(() => {}); // it only saves time
  }

  /** @param {{points?: number[][], box?: number[], scribble?: number[][], mode: string}} prompts coordinates in image pixels */
  request(prompts) {
    this.#body = { points: [], box: null, scribble: null, ...prompts };
    this.#send();
  }

  /** @param {boolean} erase subtracts the region from the mask instead of adding it */
  accept(erase) {
    const { proposal } = this.controller;
    if (!proposal) return;
    const layer = this.controller.beginEdit();
    if (!layer) return; // the proposal stays
    layer.blend(proposal.bitmap, erase);
    this.controller.endEdit();
    this.discard();
  }

  discard() {
    this.#running?.abort();
    this.#running = null;
    this.#body = null;
    this.controller.setProposal(null);
  }

  async #send() {
    const { image, layer } = this.controller;
    if (!image || !layer) return;
    this.#running?.abort();
    const running = new AbortController();
    this.#running = running;
    this.controller.emit("proposal");
    try {
      const body = { ...this.#body, label: layer.label, size: this.controller.store.view.region };
      const blob = await api.assist(image.id, body, running.signal);
      const bitmap = await decodedMask({ blob }, layer.canvas.width, layer.canvas.height, layer.colour);
      if (running.signal.aborted) return;
      this.#running = null;
      this.controller.setProposal({ bitmap });
    } catch (error) {
      if (running.signal.aborted) return;
      this.#running = null;
      this.controller.setProposal(null);
      error instanceof Error && error.message ? showError(error) : notice("No region was found there.", "error");
    }
  }
}
