/** Every tool, in the order of the toolbar. */

import { BoxTool } from "./box.js";
import { BrushTool } from "./brush.js";
import { ClickTool } from "./click.js";
import { HandTool } from "./hand.js";
import { OutlineTool } from "./outline.js";
import { PieceTool } from "./piece.js";
import { PolygonTool } from "./polygon.js";
import { ScribbleTool } from "./scribble.js";

/**
 * @typedef {Object} Tool
 * @property {string} id its icon's name too
 * @property {string} name
 * @property {string} key
 * @property {string} hint one line
 * @property {boolean} [round] shows the brush's circle
 * @property {boolean} [assists] requests proposals from the server
 * @property {boolean} [pans] drags the view
 * @property {(point: import("../types.js").Point, event: any) => boolean} down
 * @property {(points: import("../types.js").Point[], event?: any) => void} move
 * @property {() => void} up
 * @property {() => void} cancel
 * @property {() => void} leave another tool or image is selected
 * @property {(point: import("../types.js").Point) => void} [hover]
 * @property {(key: string) => boolean} [press]
 * @property {(context: CanvasRenderingContext2D, view: import("../view.js").View) => void} draw over the image, in stage pixels
 */

/** @param {import("../canvas-controller.js").CanvasController} controller @returns {Tool[]} */
export function makeTools(controller) {
  return [
    new BrushTool(controller, false),
    new BrushTool(controller, true),
    new PolygonTool(controller),
    new OutlineTool(controller),
    new PieceTool(controller),
    new ClickTool(controller, "superpixel"),
    new ClickTool(controller, "grow"),
    new BoxTool(controller),
    new ScribbleTool(controller),
    new HandTool(),
  ];
}
