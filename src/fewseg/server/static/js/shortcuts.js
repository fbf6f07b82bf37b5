/** Keys. What is being typed into a field, and dialogs, keep theirs. */

import { isTyping } from "./dom.js";
import { helpDialog } from "./help.js";
import { labelDialog } from "./labels.js";
import { check, promote } from "./panel.js";
import { pressStage } from "./pen.js";

/** @param {import("./store.js").Store} store @param {import("./editor.js").Editor} editor @param {(which: "undo"|"redo") => void} stepProject */
export function listenToKeys(store, editor, stepProject) {
  const { desk } = editor;
  const zoom = (/** @type {number} */ factor) => (desk.view.zoom(factor), desk.viewChanged());
  const grow = (/** @type {number} */ step) => {
    if (desk.tool.assists) {
      store.setView({ region: Math.min(1, Math.max(0, store.view.region + 0.1 * step)) });
      desk.assist.resize();
    } else store.setView({ brush: Math.min(240, Math.max(3, Math.round(store.view.brush * 1.2 ** step + step))) });
  };

  /** @type {Record<string, () => void>} keys of the editor */
  const keys = {
    "[": () => grow(-1),
    "]": () => grow(1),
    "+": () => zoom(1.25),
    "=": () => zoom(1.25),
    "-": () => zoom(0.8),
    0: () => (desk.view.fit(), desk.viewChanged()),
    m: () => store.setView({ masks: !store.view.masks }),
    u: () => store.setView({ uncertainty: !store.view.uncertainty }),
    a: () => promote(desk),
    c: () => check(desk),
    n: () => labelDialog(store, null),
    x: () => desk.assist.accept(true),
    j: () => editor.go(1),
    k: () => editor.go(-1),
    PageDown: () => editor.go(1),
    PageUp: () => editor.go(-1),
    ArrowRight: () => editor.go(1),
    ArrowLeft: () => editor.go(-1),
    Enter: () => desk.assist.accept(false),
    Escape: () => (desk.region || desk.assist.asking ? desk.assist.discard() : (location.hash = "#/")),
  };
  for (const tool of desk.tools) keys[tool.key] = () => desk.setTool(tool.id);

  addEventListener("keydown", (event) => {
    if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
    if (command(event, store, editor, stepProject)) event.preventDefault();
    else if (event.ctrlKey || event.metaKey || event.altKey) return;
    else if (event.key === "?") helpDialog();
    else if (editor.open && inEditor(event, store, editor, keys)) event.preventDefault();
    else if (!editor.open && event.key === "n") {
      event.preventDefault();
      labelDialog(store, null);
    }
  });
  addEventListener("keyup", (event) => event.key === " " && hold(desk, false));
  addEventListener("blur", () => hold(desk, false));
}

/** @param {import("./desk.js").Desk} desk @param {boolean} held the space bar */
function hold(desk, held) {
  if (desk.spaceHeld === held) return;
  desk.spaceHeld = held;
  desk.stage.classList.toggle("grab", held);
  desk.redrawOver();
}

/** Undo and redo. @param {KeyboardEvent} event @param {import("./store.js").Store} store @param {import("./editor.js").Editor} editor @param {(which: "undo"|"redo") => void} stepProject */
function command(event, store, editor, stepProject) {
  if (!event.ctrlKey && !event.metaKey) return false;
  const key = event.key.toLowerCase();
  if (key !== "z" && key !== "y") return false;
  const redo = key === "y" || event.shiftKey;
  if (editor.open) editor.desk.step(redo ? "redo" : "undo");
  else stepProject(redo ? "redo" : "undo");
  return true;
}

/** @param {KeyboardEvent} event @param {import("./store.js").Store} store @param {import("./editor.js").Editor} editor @param {Record<string, () => void>} keys */
function inEditor(event, store, editor, keys) {
  const { desk } = editor;
  const { target, key } = event;
  const onStage = target === desk.stage;
  const onControl = target instanceof HTMLElement && target.closest("button, a, input, select") !== null;
  if (onStage && pressStage(desk, event)) return true;
  if (onControl && ["Enter", " "].includes(key)) return false; // presses the control
  if (onControl && key.startsWith("Arrow") && /** @type {HTMLElement} */ (target).closest("input, .card")) return false;
  if (key === " ") return hold(desk, true), true;
  if (desk.tool.press?.(key)) return true;
  const label = /^[1-9]$/.test(key) && store.labels[Number(key) - 1];
  if (label) {
    if (!desk.painted) store.setActive(label.id); // a stroke belongs to the label that it began with
    return true;
  }
  const action = keys[key.length === 1 ? key.toLowerCase() : key];
  action?.();
  return Boolean(action);
}
