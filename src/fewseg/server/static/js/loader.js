/** Loads what the desk shows: the picture's pixels, sharper as one zooms in, and a mask for every label. */

import { api } from "./api.js";
import { MaskLayer } from "./layer.js";
import { fitted, paintedMask } from "./masks.js";

/** @typedef {import("./types.js").Picture} Picture */

const FIRST_SIDE = 1600; // pixels of the picture that opens
const SHARP_SIDE = 6000; // and of the one that is fetched when one zooms in
const MASK_SIDE = 2560; // pixels of the canvases that are painted on; larger pictures' masks are enlarged when sent
const AWAITED = 4000; // milliseconds that the event of an own save may take
const AGAIN = 2000; // milliseconds before a mask that did not come is asked for again
const UNSURE_COLOUR = "#e64980";

export class Loader {
  /** @type {Map<number, MaskLayer>} by label */
  layers = new Map();
  /** @type {HTMLImageElement|null} */
  image = null;
  /** @type {ImageBitmap|null} */
  uncertainty = null;
  #uncertaintyOf = "";
  #side = 0;
  /** @type {Picture|null} */
  #picture = null;

  /** @param {import("./desk.js").Desk} desk */
  constructor(desk) {
    this.desk = desk;
    const { store, saver } = desk;
    store.on("labels", () => this.sync());
    store.on("picture", (id) => id === this.#picture?.id && this.sync());
    store.on("pictures", () => this.sync());
    store.on("view", (change) => "uncertainty" in change && this.#loadUncertainty());
    saver.addEventListener("saved", (event) => this.#saved(/** @type {CustomEvent} */ (event).detail));
  }

  /** @param {Picture} picture */
  open(picture) {
    this.#picture = picture;
    this.#fetchImage(Math.min(FIRST_SIDE, Math.max(picture.width, picture.height)));
    this.sync();
  }

  close() {
    this.#picture = null;
    this.layers.clear();
    this.image = this.uncertainty = null;
    this.#uncertaintyOf = "";
    this.#side = 0;
  }

  /** Fetches the picture larger where the screen shows more than what is there. */
  sharpen() {
    if (!this.#picture || !this.image) return;
    const whole = Math.max(this.#picture.width, this.#picture.height);
    const wanted = whole * this.desk.view.scale * (this.desk.scene.density ?? 1);
    if (wanted > this.#side * 1.3 && this.#side < Math.min(whole, SHARP_SIDE)) this.#fetchImage(Math.min(whole, SHARP_SIDE));
  }

  /** The layer is about to be painted on: what was judged absent begins empty. @param {MaskLayer} layer */
  claim(layer) {
    layer.visible = true;
    if (!layer.absent) return;
    layer.absent = false;
    layer.revision = -2;
    layer.replace(null);
  }

  /** Whether a mask is still to come: what is painted before it would take its place. @param {MaskLayer} layer */
  awaits(layer) {
    const picture = /** @type {Picture} */ (this.#picture);
    return !layer.ready && !layer.absent && (Boolean(picture.masks[layer.label]) || this.desk.saver.pending(picture, layer.label));
  }

  /** Brings the layers in step with what the store says of the picture. */
  sync() {
    const { store, saver } = this.desk;
    const picture = this.#picture && store.pictures.get(this.#picture.id);
    if (!picture) return;
    this.#picture = this.desk.picture = picture;
    for (const layer of [...this.layers.values()]) if (!store.label(layer.label)) this.#remove(layer);
    for (const label of store.labels) {
      const layer = this.#layer(picture, label);
      if (layer.colour !== label.colour) layer.recolour(label.colour);
      if (saver.pending(picture, label.id)) {
        if (layer.revision === -1) this.#loadDraft(picture, layer);
      } else if (!layer.editing) this.#refresh(picture, layer);
    }
    this.#loadUncertainty();
    this.desk.say("layers");
    this.desk.redraw();
  }

  /** Its label is gone. @param {MaskLayer} layer */
  #remove(layer) {
    this.layers.delete(layer.label);
    if (this.desk.painted === layer) this.desk.cancelEdit();
    this.desk.forget(layer);
  }

  /** @param {Picture} picture @param {import("./types.js").Label} label */
  #layer(picture, label) {
    let layer = this.layers.get(label.id);
    if (!layer) {
      const { width, height } = fitted(picture.width, picture.height, MASK_SIDE);
      layer = new MaskLayer(label.id, label.colour, width, height, width / picture.width);
      this.layers.set(label.id, layer);
    }
    return layer;
  }

  /** @param {Picture} picture @param {MaskLayer} layer */
  #refresh(picture, layer) {
    const revision = picture.masks[layer.label] ?? 0;
    const painted = picture.supports.includes(layer.label);
    if (!layer.shownAnyway) layer.absent = !painted && picture.present[layer.label] === false;
    if (layer.awaited === revision) layer.awaited = 0;
    if (layer.revision === revision || layer.awaited) return;
    if (revision) this.#loadMask(picture, layer, revision);
    else {
      if (layer.revision > 0) this.desk.forget(layer); // it was removed: its steps would bring back pieces of it
      layer.revision = 0;
      layer.replace(null);
    }
  }

  /** @param {Picture} picture @param {MaskLayer} layer @param {number} revision */
  async #loadMask(picture, layer, revision) {
    if (layer.loading === revision) return;
    layer.loading = revision;
    const { width, height } = layer.canvas;
    const url = api.maskAddress(picture.id, layer.label, revision, Math.max(width, height));
    const bitmap = await paintedMask({ url }, width, height, layer.colour).catch(() => null);
    if (layer.loading !== revision) return;
    layer.loading = 0;
    if (!bitmap) setTimeout(() => this.sync(), AGAIN);
    const kept = !bitmap || this.layers.get(layer.label) !== layer || layer.editing || this.desk.saver.pending(picture, layer.label);
    if (kept) return; // it is asked for again, or what was painted meanwhile wins
    layer.revision = revision;
    layer.replace(bitmap);
    this.desk.forget(layer);
    this.desk.redraw();
  }

  /** @param {Picture} picture @param {MaskLayer} layer */
  async #loadDraft(picture, layer) {
    layer.revision = -2;
    const { canvas, draft } = this.desk.saver.unsent(picture, layer.label);
    if (canvas) {
      layer.replace(canvas);
      layer.recolour(layer.colour);
      return;
    }
    if (!draft) return;
    const { width, height } = layer.canvas;
    const bitmap = await paintedMask({ blob: draft.mask }, width, height, layer.colour).catch(() => null);
    if (layer.revision !== -2 || layer.editing) return;
    layer.replace(bitmap);
    this.desk.redraw();
  }

  /** @param {{job: import("./saver.js").Job, picture: Picture|null}} detail */
  #saved({ job, picture }) {
    const layer = this.layers.get(job.label);
    if (!layer || job.picture.id !== this.#picture?.id) return;
    if (job.draft?.count && layer.ready) {
      this.#await(layer, picture?.masks[job.label] ?? 0);
    } else if (!this.desk.saver.pending(job.picture, job.label)) {
      // An empty mask was not kept, and a draft may be gone before it was shown: show what the server shows.
      layer.revision = -1;
      layer.awaited = 0;
      layer.ready = false;
      if (picture) this.desk.store.setPicture(picture);
      this.sync();
    }
  }

  /** The server has what is on the canvas: events of before are not to bring older masks back. @param {MaskLayer} layer @param {number} revision */
  #await(layer, revision) {
    layer.revision = layer.awaited = revision;
    setTimeout(() => {
      if (layer.awaited !== revision) return;
      layer.awaited = 0;
      this.sync();
    }, AWAITED);
  }

  /** @param {number} side longest side, pixels */
  async #fetchImage(side) {
    const picture = /** @type {Picture} */ (this.#picture);
    this.#side = side;
    const image = new Image();
    image.src = api.imageAddress(picture.id, side);
    await image.decode().catch(() => {});
    if (this.#picture?.id !== picture.id || this.#side !== side || !image.naturalWidth) return;
    this.image = image;
    this.sharpen();
    this.desk.redraw();
    this.desk.say("image");
  }

  async #loadUncertainty() {
    const picture = this.#picture;
    if (!picture || !this.desk.store.view.uncertainty) return;
    const revision = Math.max(0, ...Object.values(picture.masks));
    const of = `${picture.id} ${revision}`;
    if (of === this.#uncertaintyOf) return;
    this.#uncertaintyOf = of;
    const { width, height } = fitted(picture.width, picture.height, FIRST_SIDE);
    const source = { url: api.uncertaintyAddress(picture.id, revision) };
    const bitmap = await paintedMask(source, width, height, UNSURE_COLOUR).catch(() => null);
    if (of !== this.#uncertaintyOf) return;
    this.uncertainty = bitmap;
    this.desk.redraw();
  }
}
