/** The editor's side panel: the labels with their state in this image, and display options. */

import { api } from "./api.js";
import { find, h } from "./dom.js";
import { icon } from "./icons.js";
import { labelDialog } from "./labels.js";
import { attempt } from "./notices.js";
import { quality } from "./quality.js";
import { slider } from "./toolbar.js";

/** @typedef {import("./types.js").ImageEntry} ImageEntry */
/** @typedef {import("./types.js").Label} Label */
/** @typedef {import("./canvas-controller.js").CanvasController} CanvasController */

/** @param {CanvasController} controller */
export function showPanel(controller) {
  const { store, saver } = controller;
  const rows = find("#label-rows");
  const nextStep = find("#next-step");
  const facts = find("#image-info");
  showDisplay(controller);
  find("#add-label").addEventListener("click", () => labelDialog(store, null));
  const draw = () => {
    const { image } = controller;
    if (!image) return;
    const focused = /** @type {HTMLElement} */ (document.activeElement)?.closest?.("[data-focus]")?.getAttribute("data-focus");
    rows.replaceChildren(...store.labels.map((label, index) => row(controller, image, label, index)));
    const label = store.label(store.active);
    nextStep.replaceChildren(...(label ? action(controller, image, label) : [h("p", { class: "hint" }, "Add a label first: the name of the objects to segment.")]));
    facts.replaceChildren(...about(image));
    if (focused) /** @type {HTMLElement|null} */ (document.querySelector(`[data-focus="${focused}"]`))?.focus();
  };
  controller.addEventListener("layers", draw);
  controller.addEventListener("history", draw);
  store.on("active labels", draw);
  saver.addEventListener("state", draw);
}

/** @param {CanvasController} controller @param {ImageEntry} image @param {Label} label @param {number} index */
function row(controller, image, label, index) {
  const { store } = controller;
  const layer = controller.loader.layers.get(label.id);
  const shown = Boolean(layer?.visible && !layer.absent);
  const toggle = () => {
    if (!layer) return;
    layer.visible = !shown;
    if (layer.visible && layer.absent) layer.absent = !(layer.forceVisible = true);
    controller.emit("layers");
    controller.redraw();
  };
  return h(
    "li",
    { class: label.id === store.active ? "label-row active" : "label-row", style: `--label: ${label.colour}` },
    h(
      "button",
      { type: "button", class: "choose", "data-focus": `label-${label.id}`, "aria-pressed": String(label.id === store.active), onclick: () => store.setActive(label.id) },
      h("span", { class: "dot" }),
      h("span", { class: "text" }, label.name),
      h("span", { class: "status" }, status(controller, image, label)),
      index < 9 && h("kbd", {}, String(index + 1)),
    ),
    h("button", { type: "button", class: "bare", "data-focus": `edit-${label.id}`, "aria-label": `Change label ${label.name}`, onclick: () => labelDialog(store, label) }, icon("edit")),
    h("button", { type: "button", class: "bare", "data-focus": `eye-${label.id}`, "aria-pressed": String(shown), "aria-label": `Show ${label.name}`, onclick: toggle }, icon(shown ? "eye" : "hidden")),
    quality(label),
  );
}

/** @param {CanvasController} controller @param {ImageEntry} image @param {Label} label @returns {string} */
function status(controller, image, label) {
  if (image.supports.includes(label.id)) return "example";
  if (controller.saver.pending(image, label.id)) return "painted";
  if (image.state === "working" || (image.state === "waiting" && label.shots)) return "…";
  if (image.present[label.id] === false) return "absent?";
  const score = image.scores[label.id];
  return score === undefined ? "" : `${Math.round(100 * score)} %`;
}

/** The next step for the active label. @param {CanvasController} controller @param {ImageEntry} image @param {Label} label @returns {Node[]} */
function action(controller, image, label) {
  const { saver } = controller;
  if (image.supports.includes(label.id)) {
    return [
      h("p", { class: "is-example" }, icon("check"), h("span", {}, "This image is an example of ", h("b", {}, label.name), ".")),
      h("button", { type: "button", class: "quiet wide", "data-focus": "next-step", onclick: () => withdraw(controller, image, label) }, "Remove this example"),
    ];
  }
  if (saver.pending(image, label.id)) {
    return [h("button", { type: "button", class: "primary wide", "data-focus": "next-step", id: "promote", onclick: () => saver.flush() }, icon("star"), "Use as example")];
  }
  if (image.masks[label.id] && image.present[label.id] !== false) {
    return [
      h("button", { type: "button", class: "primary wide", "data-focus": "next-step", id: "promote", onclick: () => promote(controller) }, icon("star"), "Use as example"),
      h("p", { class: "hint" }, "Correct? One click makes it an example for the others. Wrong? Paint over it: that makes it an example too."),
      checkButton(controller, image),
    ];
  }
  if (image.present[label.id] === false) {
    return [h("p", { class: "hint" }, `Probably no ${label.name} here. If there is, paint it.`), checkButton(controller, image)];
  }
  return [h("p", { class: "hint" }, `Paint ${label.name} here, and it is segmented in every other image.`)];
}

/** The button that confirms the masks without teaching them. @param {CanvasController} controller @param {ImageEntry} image */
function checkButton(controller, image) {
  const set = () => check(controller);
  return h("button", { type: "button", class: "quiet wide", "data-focus": "check", "aria-pressed": String(image.checked), title: "Counts as checked when exporting (C)", onclick: set }, icon("check"), image.checked ? "Checked" : "Mark as checked");
}

/** @param {CanvasController} controller */
export async function check(controller) {
  const { image } = controller;
  if (!image || image.state !== "done") return;
  const changed = await attempt(() => api.check(image.id, !image.checked));
  if (changed?.id) controller.store.setImage(changed);
}

/** Makes the shown mask an example: unsaved strokes if there are any, else the prediction. @param {CanvasController} controller */
export async function promote(controller) {
  const { image, store, saver } = controller;
  const label = store.label(store.active);
  if (!image || !label || image.supports.includes(label.id)) return;
  if (saver.pending(image, label.id)) return void saver.flush();
  if (!image.masks[label.id]) return;
  const changed = await attempt(() => api.promote(image.id, label.id));
  if (changed?.id) store.setImage(changed);
}

/** @param {CanvasController} controller @param {ImageEntry} image @param {Label} label */
async function withdraw(controller, image, label) {
  await controller.saver.flush();
  const changed = await attempt(() => api.removeAnnotation(image.id, label.id));
  if (changed?.id) controller.store.setImage(changed);
}

/** @param {ImageEntry} image @returns {Node[]} */
function about(image) {
  /** @type {[string, string][]} */
  const lines = [["Size", `${image.width} × ${image.height}`]];
  if (image.state === "failed") lines.push(["Failed", image.error ?? "unknown reason"]);
  else if (image.state === "waiting" || image.state === "working") lines.push(["Masks", "in progress …"]);
  else if (image.confidence !== null && !image.supports.length) lines.push(["Confidence", `${Math.round(100 * image.confidence)} %`]);
  return lines.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
}

/** @param {CanvasController} controller */
function showDisplay(controller) {
  const { store } = controller;
  const opacity = slider("Opacity", 0, 1, 0.05, () => store.view.opacity, (value) => store.setView({ opacity: value }));
  const toggles = [["masks", "Masks", "M"], ["uncertainty", "Uncertainty", "U"]].map(([name, text, key]) => {
    const box = h("input", { type: "checkbox", role: "switch", onchange: () => store.setView({ [name]: box.checked }) });
    return { name, box, element: h("label", { class: "switch" }, h("span", {}, text, " ", h("kbd", {}, key)), box) };
  });
  find("#display").replaceChildren(opacity.element, ...toggles.map(({ element }) => element));
  const draw = () => {
    opacity.show();
    for (const { name, box } of toggles) box.checked = store.view[name];
  };
  store.on("view", draw);
  draw();
}
