/** Brush and eraser: strokes as wide as the circle under the pointer. Shift draws a straight line from the last point. */

/** @typedef {import("../types.js").Point} Point */

export class BrushTool {
  /** @type {Point|null} */
  #last = null;

  /** @param {import("../canvas-controller.js").CanvasController} controller @param {boolean} erase */
  constructor(controller, erase) {
    this.controller = controller;
    this.erase = erase;
    this.id = erase ? "eraser" : "brush";
    this.name = erase ? "Eraser" : "Brush";
    this.key = erase ? "e" : "b";
    this.hint = erase ? "Drag to erase; erasing everything says that it is not here. [ and ] change the size." : "Drag to paint. [ and ] change the size, Shift draws a straight line.";
    this.round = true;
  }

  /** @param {Point} point image pixels @param {{shiftKey?: boolean, button?: number}} event */
  down(point, event) {
    const layer = this.controller.beginEdit();
    if (!layer) return false;
    this.erasing = this.erase || event.button === 2;
    const straight = event.shiftKey && this.#last;
    layer.stroke(straight ? [/** @type {Point} */ (this.#last), point] : [point], this.controller.brushWidth, this.erasing);
    this.#last = point;
    this.controller.redraw();
    return true;
  }

  /** @param {Point[]} points */
  move(points) {
    this.controller.painted?.stroke([this.#last ?? points[0], ...points], this.controller.brushWidth, this.erasing ?? this.erase);
    this.#last = points[points.length - 1];
    this.controller.redraw();
  }

  up() {
    this.controller.endEdit();
  }

  cancel() {
    this.controller.cancelEdit();
  }

  leave() {
    this.#last = null;
  }

  draw() {}
}
