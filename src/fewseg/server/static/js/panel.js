/** The editor's side panel: the labels with their state in this image, and display options. */

import { api } from "./api.js";
import { find, h } from "./dom.js";
import { icon } from "./icons.js";
import { labelDialog } from "./labels.js";
import { attempt } from "./notices.js";
import { quality } from "./quality.js";
import { thresholds } from "./thresholds.js";
import { slider } from "./toolbar.js";

/** @typedef {import("./types.js").ImageEntry} ImageEntry */
/** @typedef {import("./types.js").Label} Label */
/** @typedef {import("./canvas-controller.js").CanvasController} CanvasController */
/** @typedef {import("./decisions.js").Decisions} Decisions */

/** @param {number} value 0..1 */
const percent = (value) => `${Math.round(100 * value)} %`;

const PRESENCE = "Presence: how probable it is that the label is in this image at all";
/** @type {Record<string, string>} */
const EXPLAINED = {
  Confidence: "Confidence: the expected overlap (IoU) of this mask with the right one",
  Area: "Area: the share of the image that this mask covers",
};

/** @param {CanvasController} controller @param {Decisions} decisions */
export function showPanel(controller, decisions) {
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
    nextStep.replaceChildren(...(label ? action(controller, decisions, image, label).filter((node) => node !== null) : [h("p", { class: "hint" }, "Add a label first: the name of the objects to segment.")]));
    facts.replaceChildren(...about(image, label));
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
    if (layer.visible && layer.absent) layer.forceVisible = true;
    controller.loader.sync();
  };
  return h(
    "li",
    { class: label.id === store.active ? "label-row active" : "label-row", style: `--label: ${label.colour}` },
    h(
      "button",
      { type: "button", class: "choose", "data-focus": `label-${label.id}`, "aria-pressed": String(label.id === store.active), onclick: () => store.setActive(label.id) },
      h("span", { class: "dot" }),
      h("span", { class: "text" }, label.name),
      h("span", { class: "status", title: PRESENCE }, status(controller, image, label)),
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
  if (image.absent.includes(label.id)) return "not here";
  if (image.confirmed.includes(label.id)) return "checked";
  if (image.state === "working" || (image.state === "waiting" && label.shots)) return "…";
  if (image.present[label.id] === false) return "absent?";
  const score = image.scores[label.id];
  return score === undefined ? "" : `presence ${percent(score)}`;
}

/** The next step for the active label. @param {CanvasController} controller @param {Decisions} decisions @param {ImageEntry} image @param {Label} label @returns {(Node|null)[]} */
function action(controller, decisions, image, label) {
  const { saver } = controller;
  const state = (/** @type {string} */ text, /** @type {string} */ undo) => [
    h("p", { class: "is-example" }, icon("check"), h("span", {}, text, " ", h("b", {}, label.name), ".")),
    h("button", { type: "button", class: "quiet wide", "data-focus": "next-step", onclick: () => decisions.withdraw() }, undo),
  ];
  if (image.supports.includes(label.id)) return state("This image is an example of", "Remove this example");
  if (image.absent.includes(label.id)) return [...state("Not here:", "It is here after all"), checkButton(decisions, image)];
  const accept = h("button", { type: "button", class: "primary wide", "data-focus": "next-step", id: "promote", title: "The mask teaches: it becomes an example (A)", onclick: () => decisions.accept() }, icon("star"), "Use as example");
  if (saver.pending(image, label.id)) return [accept];
  if (image.confirmed.includes(label.id)) return [h("p", { class: "is-example" }, icon("check"), "Checked: this mask stays as it is."), accept, checkButton(decisions, image)];
  const refuse = h("button", { type: "button", class: "quiet", "data-focus": "refuse", id: "refuse", title: `There is no ${label.name} in this image (Delete)`, onclick: () => decisions.refuse() }, "Not here");
  if (image.masks[label.id] && image.present[label.id] !== false) {
    return [
      accept,
      h("div", { class: "choices" }, checkButton(decisions, image), refuse),
      h("p", { class: "hint" }, "Right? It can teach, or only be checked. Wrong? Paint over it: that makes it an example."),
    ];
  }
  if (image.present[label.id] === false) {
    const shown = controller.loader.layers.get(label.id)?.tentative;
    return [
      h("p", { class: "hint" }, `Probably no ${label.name} here: presence ${percent(image.scores[label.id])}, shown from ${percent(label.presence_threshold)}.`),
      shown ? accept : null,
      image.areas[label.id] === 0 ? null : h("button", { type: "button", class: shown ? "quiet wide" : "wide", "data-focus": "found", id: "show-found", title: "Painting starts from it then (F)", onclick: () => controller.showFound() }, icon(shown ? "hidden" : "eye"), shown ? "Hide it again" : "Show what was found"),
      h("div", { class: "choices" }, checkButton(decisions, image), refuse),
    ];
  }
  return [h("p", { class: "hint" }, `Paint ${label.name} here, and it is segmented in every other image.`)];
}

/** The button that confirms the masks without teaching them. @param {Decisions} decisions @param {ImageEntry} image */
function checkButton(decisions, image) {
  return h("button", { type: "button", class: "quiet", "data-focus": "check", id: "check", "aria-pressed": String(image.checked), title: "The masks of this image are right, and stay as they are (C)", onclick: () => decisions.check() }, icon("check"), image.checked ? "Checked" : "Mark as checked");
}

/** @param {ImageEntry} image @param {Label|null} label @returns {Node[]} */
function about(image, label) {
  /** @type {[string, string][]} */
  const lines = [["Size", `${image.width} × ${image.height}`]];
  if (image.state === "failed") lines.push(["Failed", image.error ?? "unknown reason"]);
  else if (image.state === "waiting" || image.state === "working") lines.push(["Masks", "in progress …"]);
  else if (label && image.present[label.id] && image.confidences[label.id] !== undefined) {
    lines.push(["Confidence", percent(image.confidences[label.id])]);
  }
  if (label && image.areas[label.id]) lines.push(["Area", `${(100 * image.areas[label.id]).toFixed(1)} %`]);
  return lines.flatMap(([name, value]) => [h("dt", { title: EXPLAINED[name] }, name), h("dd", { title: EXPLAINED[name] }, value)]);
}

/** @param {CanvasController} controller */
function showDisplay(controller) {
  const { store } = controller;
  const opacity = slider("Opacity", 0, 1, 0.05, () => store.view.opacity, (value) => store.setView({ opacity: value }));
  const toggles = [["masks", "Masks", "M"], ["uncertainty", "Uncertainty", "U"], ["advance", "Go on after A, C, Delete", ""]].map(([name, text, key]) => {
    const box = h("input", { type: "checkbox", role: "switch", onchange: () => store.setView({ [name]: box.checked }) });
    return { name, box, element: h("label", { class: "switch" }, h("span", {}, name === "uncertainty" && h("span", { class: "legend", title: "Pink: this pixel could be either" }), text, " ", key && h("kbd", {}, key)), box) };
  });
  find("#sureness").replaceChildren(thresholds(store));
  showExclusive(store);
  find("#display").replaceChildren(opacity.element, ...toggles.map(({ element }) => element));
  const draw = () => {
    opacity.show();
    for (const { name, box } of toggles) box.checked = store.view[name];
  };
  store.on("view", draw);
  draw();
}

/** The switch of labels that exclude each other, with two or more. @param {import("./store.js").Store} store */
function showExclusive(store) {
  const host = find("#exclusive");
  const box = h("input", { type: "checkbox", role: "switch", onchange: () => attempt(() => api.changeProject({ exclusive: box.checked })) });
  host.replaceChildren(h("label", { class: "switch", title: "A pixel has one label: painted wins, then the surer one. Off: labels may overlap" }, h("span", {}, "One label a pixel"), box));
  const draw = () => {
    host.hidden = store.labels.length < 2;
    box.checked = store.exclusive;
  };
  store.on("project labels", draw);
  draw();
}
