/** The sheet of shortcuts. */

import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";

/** @type {[string, [string, string][]][]} section, lines of keys and what they do */
const SHEET = [
  ["Tools", [["B", "Brush"], ["E", "Eraser"], ["P", "Polygon"], ["W", "Click: pick a patch"], ["G", "Grow a region from a press"], ["R", "Box around a thing"], ["S", "Scribble over a thing"], ["H", "Move the picture"]]],
  ["Painting", [["[ ]", "Smaller, larger brush or region"], ["Shift press", "Straight line from the last point"], ["Right button", "Erase with the brush"], ["Enter", "Add the proposed region, close the polygon"], ["X", "Take the proposed region away"], ["Esc", "Discard it"], ["Ctrl Z", "Undo"], ["Ctrl Shift Z", "Redo"]]],
  ["Pictures", [["→ or J", "Next picture"], ["← or K", "Previous picture"], ["A", "Use as example"], ["C", "Mark as checked"], ["1 – 9", "Choose a label"], ["N", "New label"], ["Esc", "Back to all pictures"]]],
  ["View", [["Wheel, + −", "Zoom"], ["0", "Whole picture"], ["Space drag", "Move the picture"], ["M", "Masks on, off"], ["U", "Show where it is unsure"], ["?", "This sheet"]]],
  ["Without a mouse", [["Tab", "To the picture, until it has a ring"], ["Arrows", "Move the cross; Shift moves it far"], ["Enter", "Pen down and up, or press with other tools"]]],
];

export function helpDialog() {
  const sections = SHEET.map(([title, lines]) =>
    h("section", {}, h("h3", {}, title), h("dl", {}, ...lines.flatMap(([keys, what]) => [h("dt", {}, ...keysOf(keys)), h("dd", {}, what)]))),
  );
  openDialog("Keys and gestures", [h("div", { class: "sheet" }, ...sections), h("p", { class: "hint" }, "On a touch screen: one finger paints, two fingers zoom and move.")], { wide: true });
}

/** @param {string} keys @returns {Node[]} */
function keysOf(keys) {
  return keys.split(" ").map((key) => (["or", "–", "press", "drag", "button"].includes(key) ? h("span", {}, key) : h("kbd", {}, key)));
}
