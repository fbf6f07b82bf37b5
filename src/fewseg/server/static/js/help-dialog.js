/** The dialog of keyboard shortcuts. */

import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";

/** @type {[string, [string, string][]][]} section, lines of keys and their actions */
const SHORTCUTS = [
  ["Tools", [["B", "Brush"], ["E", "Eraser"], ["P", "Polygon"], ["O", "Outline: drag its corners"], ["D", "Remove a piece, fill a hole"], ["W", "Click: select a patch"], ["G", "Grow a region from a click"], ["R", "Box around an object"], ["S", "Scribble over an object"], ["H", "Move the image"]]],
  ["Painting", [["[ ]", "Smaller, larger brush or region"], ["Shift click", "Straight line from the last point"], ["Right button", "Erase with the brush"], ["Enter", "Add the proposed region, close the polygon"], ["X", "Subtract the proposed region"], ["Esc", "Discard it"], ["Ctrl Z", "Undo"], ["Ctrl Shift Z", "Redo"]]],
  ["Images", [["→ or J", "Next image"], ["← or K", "Previous image"], ["A", "Use as example"], ["C", "Mark as checked"], ["Delete", "The label is not here"], ["F", "Show what was nearly found"], ["1 – 9", "Choose a label"], ["N", "New label"], ["Esc", "Back to all images"]]],
  ["View", [["Wheel or + −", "Zoom"], ["Shift Wheel", "Size of brush"], ["0", "Whole image"], ["Space drag", "Move the image"], ["M", "Masks on, off"], ["U", "Uncertainty on, off"], ["?", "This list"]]],
  ["Without a mouse", [["Tab", "Move the focus to the image"], ["Arrows", "Move the cursor; with Shift in large steps"], ["Enter", "Start or end a stroke, or click with other tools"]]],
];

export function helpDialog() {
  const sections = SHORTCUTS.map(([title, lines]) =>
    h("section", {}, h("h3", {}, title), h("dl", {}, ...lines.flatMap(([keys, action]) => [h("dt", {}, ...keysOf(keys)), h("dd", {}, action)]))),
  );
  openDialog("Keys and gestures", [h("div", { class: "sheet" }, ...sections), h("p", { class: "hint" }, "On a touch screen: one finger paints, two fingers zoom and move.")], { wide: true });
}

/** @param {string} keys @returns {Node[]} */
function keysOf(keys) {
  return keys.split(" ").map((key) => (["or", "–", "click", "drag", "button"].includes(key) ? h("span", {}, key) : h("kbd", {}, key)));
}
