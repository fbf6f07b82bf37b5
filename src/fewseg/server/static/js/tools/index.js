/** Every tool, in the order of the toolbar. */

import { BoxTool } from "./box.js";
import { BrushTool } from "./brush.js";
import { ClickTool } from "./click.js";
import { HandTool } from "./hand.js";
import { PolygonTool } from "./polygon.js";
import { ScribbleTool } from "./scribble.js";

/**
 * @typedef {Object} Tool
 * @property {string} id its icon's name too
 * @property {string} name
 * @property {string} key
 * @property {string} hint one line
 * @property {boolean} [round] shows the brush's circle
 * @property {boolean} [assists] asks the server
 * @property {boolean} [pans] drags the view
 * @property {(point: import("../types.js").Point, event: any) => boolean} down
 * @property {(points: import("../types.js").Point[], event?: any) => void} move
 * @property {() => void} up
 * @property {() => void} cancel
 * @property {() => void} leave another tool or picture is chosen
 * @property {(point: import("../types.js").Point) => void} [hover]
 * @property {(key: string) => boolean} [press]
 * @property {(context: CanvasRenderingContext2D, view: import("../view.js").View) => void} draw over the picture, in stage pixels
 */

/** @param {import("../desk.js").Desk} desk @returns {Tool[]} */
export function makeTools(desk) {
  return [
    new BrushTool(desk, false),
    new BrushTool(desk, true),
    new PolygonTool(desk),
    new ClickTool(desk, "superpixel"),
    new ClickTool(desk, "grow"),
    new BoxTool(desk),
    new ScribbleTool(desk),
    new HandTool(),
  ];
}
