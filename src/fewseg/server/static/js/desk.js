/** The desk: one open picture, its masks, and the tool in hand. It knows nothing of the panels around it. */

import { Assist } from "./assist.js";
import { cross, ring } from "./cursors.js";
import { perFrame } from "./dom.js";
import { followPointers } from "./gestures.js";
import { History } from "./history.js";
import { Loader } from "./loader.js";
import { notice } from "./notices.js";
import { Scene } from "./scene.js";
import { makeTools } from "./tools/index.js";
import { View } from "./view.js";

/** @typedef {import("./types.js").Picture} Picture */
/** @typedef {import("./types.js").Point} Point */
/** @typedef {import("./layer.js").MaskLayer} MaskLayer */

/** Events: `tool`, `history`, `region` (asked, offered or gone), `view`, `layers`, `needs-label`. */
export class Desk extends EventTarget {
  /** @type {Picture|null} */
  picture = null;
  /** @type {{bitmap: ImageBitmap}|null} the region on offer */
  region = null;
  /** @type {MaskLayer|null} what the stroke in progress goes to, whatever label is chosen meanwhile */
  painted = null;
  /** @type {Point|null} the keyboard's place in the picture */
  pen = null;
  penDown = false;
  /** Polygons take away instead of adding. */
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
    this.redrawOver = perFrame(() => this.#drawOver());
    this.#follow();
    new ResizeObserver(() => this.resize()).observe(stage);
    store.on("active view", () => this.redraw());
  }

  /** The active label's mask. @returns {MaskLayer|null} */
  get layer() {
    return this.loader.layers.get(this.store.active ?? -1) ?? null;
  }

  /** The brush's width in picture pixels: constant on the stage, so that zooming in paints finer. */
  get brushWidth() {
    return this.store.view.brush / this.view.scale;
  }

  /** @param {string} type */
  say(type) {
    this.dispatchEvent(new CustomEvent(type));
  }

  /** @param {Picture} picture */
  open(picture) {
    this.close();
    this.picture = picture;
    this.view.scale = NaN;
    this.resize();
    this.view.fit();
    this.loader.open(picture);
    if (this.tool.assists) this.assist.prepare();
    this.redraw();
    this.redrawOver();
  }

  close() {
    this.endEdit();
    this.tool.leave();
    this.assist.discard();
    this.history.clear();
    this.loader.close();
    this.picture = this.pen = null;
    this.penDown = false;
    this.say("history");
  }

  /** @param {string} id */
  setTool(id) {
    const tool = this.tools.find((candidate) => candidate.id === id);
    if (!tool || tool === this.tool) return;
    this.liftPen();
    if (this.painted) return; // the pointer is still down
    this.tool.leave();
    this.assist.discard();
    this.tool = tool;
    if (tool.assists) this.assist.prepare();
    this.say("tool");
    this.redrawOver();
  }

  /** @param {{bitmap: ImageBitmap}|null} region */
  setRegion(region) {
    this.region?.bitmap.close();
    this.region = region;
    this.say("region");
    this.redraw();
    this.redrawOver();
  }

  /** @returns {boolean} whether there is a label to paint; asks for one where there is none */
  canPaint() {
    if (this.layer && this.picture) return true;
    this.say("needs-label");
    return false;
  }

  /** @returns {MaskLayer|null} the mask to draw on, its state remembered */
  beginEdit() {
    if (!this.canPaint()) return null;
    this.endEdit();
    const layer = /** @type {MaskLayer} */ (this.layer);
    if (this.loader.awaits(layer)) {
      notice("The mask is still loading: paint when it is there.");
      return null;
    }
    this.loader.claim(layer);
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
      if (!this.history.steps(change.layer)) this.#noteStart(change.layer);
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
    if (layer) this.loader.sync(); // what came meanwhile had to wait
    this.redraw();
  }

  /** The keyboard's stroke ends where the cross is. */
  liftPen() {
    if (this.penDown) this.tool.up();
    this.penDown = false;
  }

  /** A mask was replaced or is gone: its steps cannot be taken back. @param {MaskLayer} layer */
  forget(layer) {
    this.history.drop(layer);
    layer.example = true; // until the next first step
    this.say("history");
  }

  /** @param {"undo"|"redo"} which @returns {boolean} whether there was anything */
  step(which) {
    if (this.painted) return false;
    const change = this.history[which]();
    if (!change) return false;
    const { layer } = change;
    const steps = this.history.steps(layer);
    this.store.setActive(layer.label);
    if (which === "redo" && steps === 1) this.#noteStart(layer);
    if (which === "undo" && steps === 0 && !layer.example) this.#unmake(layer);
    else this.#changed(layer);
    this.redraw();
    return true;
  }

  /** @param {number[]} numbers x and y in turn @returns {number[]} whole picture pixels, inside the picture */
  inside(numbers) {
    const { width, height } = /** @type {Picture} */ (this.picture);
    return numbers.map((value, index) => Math.round(Math.min(Math.max(value, 0), (index % 2 ? height : width) - 1)));
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.stage;
    if (!this.picture || !width || !height) return;
    const density = Math.min(devicePixelRatio || 1, 2);
    this.view.setSizes(this.picture, { width, height });
    this.scene.resize({ width, height }, density);
    this.above.width = Math.round(width * density);
    this.above.height = Math.round(height * density);
    this.viewChanged();
  }

  /** The picture was moved or zoomed. */
  viewChanged() {
    this.loader.sharpen();
    this.redraw();
    this.redrawOver();
    this.say("view");
  }

  /** @param {MaskLayer} layer */
  #changed(layer) {
    this.saver.touch(/** @type {Picture} */ (this.picture), layer.label, layer.canvas);
    this.say("history");
  }

  /** The first step of a history is made. @param {MaskLayer} layer */
  #noteStart(layer) {
    const picture = /** @type {Picture} */ (this.picture);
    // While something is on its way the store does not know yet: what was noted before holds.
    if (layer.awaited || this.saver.pending(picture, layer.label)) return;
    layer.example = picture.supports.includes(layer.label);
  }

  /** Nothing painted is left: the picture is no example of the mask that was found. @param {MaskLayer} layer */
  #unmake(layer) {
    const picture = /** @type {Picture} */ (this.picture);
    this.saver.revert(picture, layer.label, layer.awaited > 0 || picture.supports.includes(layer.label));
    this.loader.sync();
    this.say("history");
  }

  #follow() {
    followPointers(this.stage, {
      down: (at, event) => this.tool.down(this.view.toPicture(at), event),
      move: (points, event) => this.tool.move(points.map((point) => this.view.toPicture(point)), event),
      up: () => this.tool.up(),
      cancel: () => this.tool.cancel(),
      hover: (at) => {
        this.#hover = at;
        if (at) this.tool.hover?.(this.view.toPicture(at));
        this.redrawOver();
      },
      pan: (dx, dy) => this.#move(() => this.view.pan(dx, dy)),
      zoom: (factor, at) => this.#move(() => this.view.zoom(factor, at)),
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
    this.redrawOver();
    this.say("view");
  }

  #draw() {
    const { picture, store, loader } = this;
    if (!picture) return;
    const order = [...loader.layers.values()].filter((layer) => !layer.absent);
    order.sort((a, b) => Number(a.label === store.active) - Number(b.label === store.active));
    this.scene.draw({
      image: loader.image, picture, view: this.view, layers: order, active: store.active,
      uncertainty: store.view.uncertainty ? loader.uncertainty : null, region: this.region,
      opacity: store.view.opacity, masks: store.view.masks, moving: this.#moving || this.saver.painting,
    });
  }

  #drawOver() {
    const context = /** @type {CanvasRenderingContext2D} */ (this.above.getContext("2d"));
    const density = this.scene.density ?? 1;
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, this.above.width, this.above.height);
    if (!this.picture) return;
    this.tool.draw(context, this.view);
    const at = this.pen ? this.view.toStage(this.pen) : this.#hover;
    if (!at || this.spaceHeld) return;
    if (this.tool.round) ring(context, at, this.store.view.brush / 2);
    if (this.pen) cross(context, at, this.penDown);
  }
}
