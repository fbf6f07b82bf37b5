/** Brush and eraser: strokes as wide as the circle under the pointer. Shift draws a straight line from the last point. */

/** @typedef {import("../types.js").Point} Point */

export class BrushTool {
  /** @type {Point|null} */
  #last = null;

  /** @param {import("../desk.js").Desk} desk @param {boolean} erase */
  constructor(desk, erase) {
    this.desk = desk;
    this.erase = erase;
    this.id = erase ? "eraser" : "brush";
    this.name = erase ? "Eraser" : "Brush";
    this.key = erase ? "e" : "b";
    this.hint = "Drag to paint. [ and ] change the size, Shift draws a straight line.";
    this.round = true;
  }

  /** @param {Point} point picture pixels @param {{shiftKey?: boolean, button?: number}} event */
  down(point, event) {
    const layer = this.desk.beginEdit();
    if (!layer) return false;
    this.erasing = this.erase || event.button === 2;
    const straight = event.shiftKey && this.#last;
    layer.stroke(straight ? [/** @type {Point} */ (this.#last), point] : [point], this.desk.brushWidth, this.erasing);
    this.#last = point;
    this.desk.redraw();
    return true;
  }

  /** @param {Point[]} points */
  move(points) {
    this.desk.painted?.stroke([this.#last ?? points[0], ...points], this.desk.brushWidth, this.erasing ?? this.erase);
    this.#last = points[points.length - 1];
    this.desk.redraw();
  }

  up() {
    this.desk.endEdit();
  }

  cancel() {
    this.desk.cancelEdit();
  }

  leave() {
    this.#last = null;
  }

  draw() {}
}
