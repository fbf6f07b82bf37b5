/** Loads the open image, at a higher resolution on zooming in, and a mask for every label. */

import { api } from "./api.js";
import { MaskLayer } from "./layer.js";
import { fitted, decodedMask } from "./masks.js";

/** @typedef {import("./types.js").ImageEntry} ImageEntry */

const FIRST_SIDE = 1600; // longest side of the image when it opens, pixels
const SHARP_SIDE = 6000; // and after zooming in
const MASK_SIDE = 2560; // longest side of the painted canvases; masks of larger images are enlarged for the upload
const EVENT_TIMEOUT = 4000; // milliseconds that the event of an own save may take
const RETRY_DELAY = 2000; // milliseconds before a failed mask is requested again
const UNCERTAINTY_COLOUR = "#e64980";

export class Loader {
  /** @type {Map<number, MaskLayer>} by label */
  layers = new Map();
  /** @type {HTMLImageElement|null} */
  pixels = null;
  /** @type {ImageBitmap|null} */
  uncertainty = null;
  #uncertaintyOf = "";
  #side = 0;
  /** @type {ImageEntry|null} */
  #image = null;

  /** @param {import("./canvas-controller.js").CanvasController} controller */
  constructor(controller) {
    this.controller = controller;
    const { store, saver } = controller;
    store.on("labels", () => this.sync());
    store.on("image", (id) => id === this.#image?.id && this.sync());
    store.on("images", () => this.sync());
    store.on("connection", () => store.connection === "open" && this.#recover());
    store.on("view", (change) => "uncertainty" in change && this.#loadUncertainty());
    store.on("active", () => this.#loadUncertainty());
    saver.addEventListener("saved", (event) => this.#saved(/** @type {CustomEvent} */ (event).detail));
  }

  /** @param {ImageEntry} image */
  open(image) {
    this.#image = image;
    this.#fetchImage(Math.min(FIRST_SIDE, Math.max(image.width, image.height)));
    this.sync();
  }

  close() {
    this.#image = null;
    this.layers.clear();
    this.pixels = this.uncertainty = null;
    this.#uncertaintyOf = "";
    this.#side = 0;
  }

  /** Fetches the image at a higher resolution where the screen shows more pixels than it has. */
  sharpen() {
    if (!this.#image || !this.pixels) return;
    const whole = Math.max(this.#image.width, this.#image.height);
    const wanted = whole * this.controller.view.scale * (this.controller.scene.density ?? 1);
    if (wanted > this.#side * 1.3 && this.#side < Math.min(whole, SHARP_SIDE)) this.#fetchImage(Math.min(whole, SHARP_SIDE));
  }

  /** Shows a layer that is about to be painted on; the mask of an absent label starts empty. @param {MaskLayer} layer */
  prepareForPainting(layer) {
    layer.visible = true;
    if (!layer.absent) return;
    layer.absent = false;
    layer.base = this.#image?.masks[layer.label] ?? 0;
    layer.revision = -2;
    layer.replace(null);
  }

  /** Loads what could not be loaded while the server was away. */
  #recover() {
    if (!this.#image) return;
    if (!this.pixels) this.#fetchImage(this.#side);
    this.#uncertaintyOf = "";
    this.sync();
  }

  /** Whether the mask is still loading: painting now would replace it. @param {MaskLayer} layer */
  isPending(layer) {
    const image = /** @type {ImageEntry} */ (this.#image);
    return !layer.ready && !layer.absent && (Boolean(image.masks[layer.label]) || this.controller.saver.pending(image, layer.label));
  }

  /** Updates the layers from the store. */
  sync() {
    const { store, saver } = this.controller;
    const image = this.#image && store.images.get(this.#image.id);
    if (!image) return;
    this.#image = this.controller.image = image;
    for (const layer of [...this.layers.values()]) if (!store.label(layer.label)) this.#remove(layer);
    for (const label of store.labels) {
      const layer = this.#layer(image, label);
      if (layer.colour !== label.colour) layer.recolour(label.colour);
      if (saver.pending(image, label.id)) {
        if (layer.revision === -1) this.#loadDraft(image, layer);
      } else if (!layer.editing) this.#refresh(image, layer);
    }
    this.#loadUncertainty();
    this.controller.emit("layers");
    this.controller.redraw();
  }

  /** Removes the layer of a deleted label. @param {MaskLayer} layer */
  #remove(layer) {
    this.layers.delete(layer.label);
    if (this.controller.painted === layer) this.controller.cancelEdit();
    this.controller.dropHistory(layer);
  }

  /** @param {ImageEntry} image @param {import("./types.js").Label} label */
  #layer(image, label) {
    let layer = this.layers.get(label.id);
    if (!layer) {
      const { width, height } = fitted(image.width, image.height, MASK_SIDE);
      layer = new MaskLayer(label.id, label.colour, width, height, width / image.width);
      this.layers.set(label.id, layer);
    }
    return layer;
  }

  /** @param {ImageEntry} image @param {MaskLayer} layer */
  #refresh(image, layer) {
    const revision = image.masks[layer.label] ?? 0;
    const example = image.supports.includes(layer.label);
    const hidden = !example && image.present[layer.label] === false;
    layer.absent = hidden && !layer.forceVisible;
    layer.tentative = hidden && layer.forceVisible;
    if (layer.awaitedRevision === revision) layer.awaitedRevision = 0;
    if (layer.revision === revision || layer.awaitedRevision) return;
    if (revision) this.#loadMask(image, layer, revision);
    else {
      if (layer.revision > 0) this.controller.dropHistory(layer); // the mask was removed: its steps would restore pieces of it
      layer.revision = 0;
      layer.replace(null);
    }
  }

  /** @param {ImageEntry} image @param {MaskLayer} layer @param {number} revision */
  async #loadMask(image, layer, revision) {
    if (layer.loading === revision) return;
    layer.loading = revision;
    const { width, height } = layer.canvas;
    const url = api.maskAddress(image.id, layer.label, revision, Math.max(width, height));
    const bitmap = await decodedMask({ url }, width, height, layer.colour).catch(() => null);
    if (layer.loading !== revision) return;
    layer.loading = 0;
    if (!bitmap) setTimeout(() => this.sync(), RETRY_DELAY);
    const ignored = !bitmap || this.layers.get(layer.label) !== layer || layer.editing || this.controller.saver.pending(image, layer.label);
    if (ignored) return; // it is requested again, or was painted on meanwhile
    layer.revision = revision;
    layer.replace(bitmap);
    this.controller.dropHistory(layer);
    this.controller.redraw();
  }

  /** @param {ImageEntry} image @param {MaskLayer} layer */
  async #loadDraft(image, layer) {
    layer.revision = -2;
    const { canvas, draft } = this.controller.saver.unsaved(image, layer.label);
    if (canvas) {
      layer.replace(canvas);
      layer.recolour(layer.colour);
      return;
    }
    if (!draft) return;
    const { width, height } = layer.canvas;
    const bitmap = await decodedMask({ blob: draft.mask }, width, height, layer.colour).catch(() => null);
    if (layer.revision !== -2 || layer.editing) return;
    layer.replace(bitmap);
    this.controller.redraw();
  }

  /** @param {{job: import("./saver.js").Job, image: ImageEntry|null}} detail */
  #saved({ job, image }) {
    const layer = this.layers.get(job.label);
    if (!layer || job.image.id !== this.#image?.id) return;
    if (image && layer.ready && !(/** @type {any} */ (image).merged) && !job.withdrawn) {
      this.#awaitEvent(layer, image.masks[job.label] ?? 0);
    } else if (!this.controller.saver.pending(job.image, job.label)) {
      // It was merged or withdrawn, or a draft was deleted before it was shown: load the server's mask.
      layer.revision = -1;
      layer.awaitedRevision = 0;
      layer.ready = false;
      if (image) this.controller.store.setImage(image);
      this.sync();
    }
  }

  /** The server has the canvas's mask: ignores events with older masks until the one of this save. @param {MaskLayer} layer @param {number} revision */
  #awaitEvent(layer, revision) {
    layer.revision = layer.awaitedRevision = revision;
    setTimeout(() => {
      if (layer.awaitedRevision !== revision) return;
      layer.awaitedRevision = 0;
      this.sync();
    }, EVENT_TIMEOUT);
  }

  /** @param {number} side longest side, pixels */
  async #fetchImage(side) {
    const image = /** @type {ImageEntry} */ (this.#image);
    this.#side = side;
    const pixels = new Image();
    pixels.src = api.imageAddress(image.id, side);
    await pixels.decode().catch(() => {});
    if (this.#image?.id !== image.id || this.#side !== side || !pixels.naturalWidth) return;
    this.pixels = pixels;
    this.sharpen();
    this.controller.redraw();
  }

  async #loadUncertainty() {
    const image = this.#image;
    if (!image || !this.controller.store.view.uncertainty) return;
    const label = this.controller.store.active ?? 0;
    const revision = image.masks[label] ?? 0;
    const of = `${image.id} ${label} ${revision}`;
    if (of === this.#uncertaintyOf) return;
    this.#uncertaintyOf = of;
    const { width, height } = fitted(image.width, image.height, FIRST_SIDE);
    const source = { url: api.uncertaintyAddress(image.id, label, revision) };
    const bitmap = await decodedMask(source, width, height, UNCERTAINTY_COLOUR).catch(() => null);
    if (of !== this.#uncertaintyOf) return;
    this.uncertainty = bitmap;
    this.controller.redraw();
  }
}
