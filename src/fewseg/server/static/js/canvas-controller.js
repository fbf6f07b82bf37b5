/** The canvas controller: the open image, its masks and the current tool. It does not depend on the panels around it. */

import { Assist } from "./assist.js";
import { cross, ring } from "./cursors.js";
import { perFrame } from "./dom.js";
import { followPointers } from "./gestures.js";
import { History } from "./history.js";
import { Loader } from "./loader.js";
import { notice } from "./notices.js";
import { Scene } from "./scene.js";
import { isDecided } from "./store.js";
import { makeTools } from "./tools/index.js";
import { View } from "./view.js";

/** @typedef {import("./types.js").ImageEntry} ImageEntry */
/** @typedef {import("./types.js").Point} Point */
/** @typedef {import("./layer.js").MaskLayer} MaskLayer */

/** Events: `tool`, `history`, `proposal` (requested, shown or gone), `view`, `layers`, `needs-label`. */
export class CanvasController extends EventTarget {
  /** @type {ImageEntry|null} */
  image = null;
  /** @type {{bitmap: ImageBitmap}|null} the proposed region */
  proposal = null;
  /** @type {MaskLayer|null} the layer of the stroke in progress, whatever label is chosen meanwhile */
  painted = null;
  /** @type {Point|null} the keyboard's cursor, in image pixels */
  cursor = null;
  cursorDown = false;
  /** Whether polygons are subtracted instead of added. */
  erasing = false;
  spaceHeld = false;
  view = new View();
  history = new History();
  /** @type {Point|null} stage pixels */
  #hover = null;
  #moving = false;

  /** @param {import("./store.js").Store} store @param {import("./saver.js").Saver} saver @param {HTMLElement} stage @param {HTMLCanvasElement} below @param {HTMLCanvasElement} above */
  constructor(store, saver, stage, below, above) {
    super();
    this.store = store;
    this.saver = saver;
    this.stage = stage;
    this.above = above;
    this.scene = new Scene(below);
    this.assist = new Assist(this);
    this.loader = new Loader(this);
    this.tools = makeTools(this);
    this.tool = this.tools[0];
    this.redraw = perFrame(() => this.#draw());
    this.redrawOverlay = perFrame(() => this.#drawOverlay());
    this.#bindPointers();
    new ResizeObserver(() => this.resize()).observe(stage);
    store.on("active view", () => this.redraw());
  }

  /** The active label's mask. @returns {MaskLayer|null} */
  get layer() {
    return this.loader.layers.get(this.store.active ?? -1) ?? null;
  }

  /** The brush's width in image pixels: constant on the stage, so that zooming in paints finer. */
  get brushWidth() {
    return this.store.view.brush / this.view.scale;
  }

  /** @param {number} step 1 or -1 */
  growBrush(step) {
    const { brush } = this.store.view;
    this.store.setView({ brush: Math.min(240, Math.max(3, Math.round(brush * 1.2 ** step + step))) });
  }

  /** @param {string} type */
  emit(type) {
    this.dispatchEvent(new CustomEvent(type));
  }

  /** @param {ImageEntry} image */
  open(image) {
    this.close();
    this.image = image;
    this.view.scale = NaN;
    this.resize();
    this.view.fit();
    this.loader.open(image);
    if (this.tool.assists) this.assist.prepare();
    this.viewChanged();
  }

  close() {
    this.endEdit();
    this.tool.leave();
    this.assist.discard();
    this.history.clear();
    this.loader.close();
    this.image = this.cursor = null;
    this.cursorDown = false;
    this.emit("history");
  }

  /** @param {string} id */
  setTool(id) {
    const tool = this.tools.find((candidate) => candidate.id === id);
    if (!tool || tool === this.tool) return;
    this.releaseCursor();
    if (this.painted) return; // the pointer is still down
    this.tool.leave();
    this.assist.discard();
    this.tool = tool;
    if (tool.assists) this.assist.prepare();
    this.emit("tool");
    this.redrawOverlay();
  }

  /** @param {{bitmap: ImageBitmap}|null} proposal */
  setProposal(proposal) {
    this.proposal?.bitmap.close();
    this.proposal = proposal;
    this.emit("proposal");
    this.redraw();
    this.redrawOverlay();
  }

  /** @returns {boolean} whether there is a label to paint; asks for one where there is none */
  canPaint() {
    if (this.layer && this.image) return true;
    this.emit("needs-label");
    return false;
  }

  /** @returns {MaskLayer|null} the mask to draw on, its state saved for the history */
  beginEdit() {
    if (!this.canPaint()) return null;
    this.endEdit();
    const layer = /** @type {MaskLayer} */ (this.layer);
    if (this.loader.isPending(layer)) {
      notice("The mask is still loading: paint when it is shown.");
      return null;
    }
    this.loader.prepareForPainting(layer);
    layer.begin();
    this.painted = layer;
    this.saver.painting = true;
    return layer;
  }

  endEdit() {
    this.saver.painting = false;
    const change = this.painted?.end();
    this.painted = null;
    if (change) {
      if (!this.history.steps(change.layer)) this.#noteFirstStep(change.layer);
      this.history.add(change);
      this.#changed(change.layer);
    }
    this.redraw();
  }

  cancelEdit() {
    this.saver.painting = false;
    const layer = this.painted;
    this.painted = null;
    layer?.cancel();
    if (layer) this.loader.sync(); // updates were deferred meanwhile
    this.redraw();
  }

  /** Ends the keyboard's stroke at the cursor. */
  releaseCursor() {
    if (this.cursorDown) this.tool.up();
    this.cursorDown = false;
  }

  /** A mask was replaced or removed: its steps can no longer be undone. @param {MaskLayer} layer */
  dropHistory(layer) {
    this.history.drop(layer);
    layer.example = true; // until its next first step
    this.emit("history");
  }

  /** Shows or hides what was found of the active label although it is probably absent. */
  showFound() {
    const { image, layer } = this;
    if (!image || !layer || image.present[layer.label] !== false || image.absent.includes(layer.label)) return;
    layer.forceVisible = !layer.forceVisible;
    layer.visible = true;
    this.loader.sync();
  }

  /** @param {"undo"|"redo"} which @returns {boolean} whether there was a step */
  step(which) {
    if (this.painted) return false;
    const change = this.history[which]();
    if (!change) return false;
    const { layer } = change;
    const steps = this.history.steps(layer);
    this.store.setActive(layer.label);
    if (which === "redo" && steps === 1) this.#noteFirstStep(layer);
    if (which === "undo" && steps === 0 && !layer.example) this.#revert(layer);
    else this.#changed(layer);
    this.redraw();
    return true;
  }

  /** @param {number[]} numbers x and y in turn @returns {number[]} whole image pixels, inside the image */
  inside(numbers) {
    const { width, height } = /** @type {ImageEntry} */ (this.image);
    return numbers.map((value, index) => Math.round(Math.min(Math.max(value, 0), (index % 2 ? height : width) - 1)));
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (!this.image || !width || !height) return;
    const density = Math.min(devicePixelRatio || 1, 2);
    this.view.setSizes(this.image, { width, height });
    this.scene.resize({ width, height }, density);
    this.above.width = Math.round(width * density);
    this.above.height = Math.round(height * density);
    this.viewChanged();
  }

  /** The image was moved or zoomed. */
  viewChanged() {
    this.loader.sharpen();
    this.redraw();
    this.redrawOverlay();
    this.emit("view");
  }

  /** @param {MaskLayer} layer */
  #changed(layer) {
    layer.tentative = false;
    this.saver.maskChanged(/** @type {ImageEntry} */ (this.image), layer.label, layer.canvas, layer.revision > 0 ? layer.revision : layer.base);
    this.emit("history");
  }

  /** Remembers, at a layer's first step, whether the image is an example. @param {MaskLayer} layer */
  #noteFirstStep(layer) {
    const image = /** @type {ImageEntry} */ (this.image);
    // While a save is pending the store is not up to date: the earlier value holds.
    if (layer.awaitedRevision || this.saver.pending(image, layer.label)) return;
    layer.example = isDecided(image, layer.label);
  }

  /** Every step is undone: shows the mask from before painting, and withdraws the example. @param {MaskLayer} layer */
  #revert(layer) {
    const image = /** @type {ImageEntry} */ (this.image);
    this.saver.revert(image, layer.label, layer.awaitedRevision > 0 || isDecided(image, layer.label));
    this.loader.sync();
    this.emit("history");
  }

  #bindPointers() {
    followPointers(this.stage, {
      down: (at, event) => this.tool.down(this.view.toImage(at), event),
      move: (points, event) => this.tool.move(points.map((point) => this.view.toImage(point)), event),
      up: () => this.tool.up(),
      cancel: () => this.tool.cancel(),
      hover: (at) => {
        this.#hover = at;
        if (at) this.tool.hover?.(this.view.toImage(at));
        this.redrawOverlay();
      },
      pan: (dx, dy) => this.#move(() => this.view.pan(dx, dy)),
      zoom: (factor, at) => this.#move(() => this.view.zoom(factor, at)),
      size: (step) => {
        if (!this.tool.round) return false;
        this.growBrush(step);
        return true;
      },
      rest: () => {
        this.#moving = false;
        this.viewChanged();
      },
      pans: () => this.spaceHeld || Boolean(this.tool.pans),
    });
  }

  /** @param {() => void} action */
  #move(action) {
    this.#moving = true;
    action();
    this.redraw();
    this.redrawOverlay();
    this.emit("view");
  }

  #draw() {
    const { image, store, loader } = this;
    if (!image) return;
    const order = [...loader.layers.values()].filter((layer) => !layer.absent);
    order.sort((a, b) => Number(a.label === store.active) - Number(b.label === store.active));
    this.scene.draw({
      pixels: loader.pixels, image, view: this.view, layers: order, active: store.active,
      uncertainty: store.view.uncertainty ? loader.uncertainty : null, proposal: this.proposal,
      opacity: store.view.opacity, masks: store.view.masks, moving: this.#moving || this.saver.painting,
    });
  }

  #drawOverlay() {
    const context = /** @type {CanvasRenderingContext2D} */ (this.above.getContext("2d"));
    const density = this.scene.density ?? 1;
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, this.above.width, this.above.height);
    if (!this.image) return;
    this.tool.draw(context, this.view);
    const at = this.cursor ? this.view.toStage(this.cursor) : this.#hover;
    if (!at || this.spaceHeld) return;
    if (this.tool.round) ring(context, at, this.store.view.brush / 2);
    if (this.cursor) cross(context, at, this.cursorDown);
  }
}
