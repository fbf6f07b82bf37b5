/** Keyboard shortcuts, except in text fields and dialogs. */

import { isTyping } from "./dom.js";
import { helpDialog } from "./help-dialog.js";
import { labelDialog } from "./labels.js";
import { handleStageKey } from "./keyboard-painting.js";

/** @param {import("./store.js").Store} store @param {import("./editor.js").Editor} editor @param {(which: "undo"|"redo") => void} stepProject */
export function listenToKeys(store, editor, stepProject) {
  const { controller } = editor;
  const zoom = (/** @type {number} */ factor) => (controller.view.zoom(factor), controller.viewChanged());
  const grow = (/** @type {number} */ step) => {
    if (controller.tool.assists) {
      store.setView({ region: Math.min(1, Math.max(0, store.view.region + 0.1 * step)) });
      controller.assist.resize();
    } else controller.growBrush(step);
  };

  /** @type {Record<string, () => void>} keys of the editor */
  const keys = {
    "[": () => grow(-1),
    "]": () => grow(1),
    "+": () => zoom(1.25),
    "=": () => zoom(1.25),
    "-": () => zoom(0.8),
    0: () => (controller.view.fit(), controller.viewChanged()),
    m: () => store.setView({ masks: !store.view.masks }),
    u: () => store.setView({ uncertainty: !store.view.uncertainty }),
    a: () => editor.decisions.accept(),
    c: () => editor.decisions.check(),
    Delete: () => editor.decisions.refuse(),
    Backspace: () => editor.decisions.refuse(),
    f: () => controller.showFound(),
    n: () => labelDialog(store, null),
    x: () => controller.assist.accept(true),
    j: () => editor.go(1),
    k: () => editor.go(-1),
    PageDown: () => editor.go(1),
    PageUp: () => editor.go(-1),
    ArrowRight: () => editor.go(1),
    ArrowLeft: () => editor.go(-1),
    Enter: () => controller.assist.accept(false),
    Escape: () => (controller.proposal || controller.assist.pending ? controller.assist.discard() : (location.hash = "#/")),
  };
  for (const tool of controller.tools) keys[tool.key] = () => controller.setTool(tool.id);

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
  addEventListener("keyup", (event) => event.key === " " && hold(controller, false));
  addEventListener("blur", () => hold(controller, false));
}

/** @param {import("./canvas-controller.js").CanvasController} controller @param {boolean} held the space bar */
function hold(controller, held) {
  if (controller.spaceHeld === held) return;
  controller.spaceHeld = held;
  controller.stage.classList.toggle("grab", held);
  controller.redrawOverlay();
}

/** Undo and redo. @param {KeyboardEvent} event @param {import("./store.js").Store} store @param {import("./editor.js").Editor} editor @param {(which: "undo"|"redo") => void} stepProject */
function command(event, store, editor, stepProject) {
  if (!event.ctrlKey && !event.metaKey) return false;
  const key = event.key.toLowerCase();
  if (key !== "z" && key !== "y") return false;
  const redo = key === "y" || event.shiftKey;
  const { controller } = editor;
  if (editor.open && !redo && /** @type {any} */ (controller.tool).corners?.length && controller.tool.press?.("Backspace")) return true; // a corner of an unfinished polygon
  if (editor.open) controller.step(redo ? "redo" : "undo") || (!redo && editor.decisions.undo());
  else stepProject(redo ? "redo" : "undo");
  return true;
}

/** @param {KeyboardEvent} event @param {import("./store.js").Store} store @param {import("./editor.js").Editor} editor @param {Record<string, () => void>} keys */
function inEditor(event, store, editor, keys) {
  const { controller } = editor;
  const { target, key } = event;
  const onStage = target === controller.stage;
  const onControl = target instanceof HTMLElement && target.closest("button, a, input, select") !== null;
  if (onStage && handleStageKey(controller, event)) return true;
  if (onControl && ["Enter", " "].includes(key)) return false; // activates the control
  if (onControl && key.startsWith("Arrow") && /** @type {HTMLElement} */ (target).closest("input, .card")) return false;
  if (key === " ") return hold(controller, true), true;
  if (controller.tool.press?.(key)) return true;
  const label = /^[1-9]$/.test(key) && store.labels[Number(key) - 1];
  if (label) {
    if (!controller.painted) store.setActive(label.id); // a stroke keeps the label it was started with
    return true;
  }
  const action = keys[key.length === 1 ? key.toLowerCase() : key];
  action?.();
  return Boolean(action);
}
