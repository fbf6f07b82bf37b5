/** The editor's side panel: labels with what is known of each in this picture, and how masks are shown. */

import { api } from "./api.js";
import { find, h } from "./dom.js";
import { icon } from "./icons.js";
import { labelDialog } from "./labels.js";
import { attempt } from "./notices.js";
import { slider } from "./toolbar.js";

/** @typedef {import("./types.js").Picture} Picture */
/** @typedef {import("./types.js").Label} Label */
/** @typedef {import("./desk.js").Desk} Desk */

/** @param {Desk} desk */
export function showPanel(desk) {
  const { store, saver } = desk;
  const rows = find("#label-rows");
  const lead = find("#lead");
  const facts = find("#facts");
  showDisplay(desk);
  find("#add-label").addEventListener("click", () => labelDialog(store, null));
  const draw = () => {
    const { picture } = desk;
    if (!picture) return;
    const focused = /** @type {HTMLElement} */ (document.activeElement)?.closest?.("[data-focus]")?.getAttribute("data-focus");
    rows.replaceChildren(...store.labels.map((label, index) => row(desk, picture, label, index)));
    const label = store.label(store.active);
    lead.replaceChildren(...(label ? action(desk, picture, label) : [h("p", { class: "hint" }, "Add a label first: the name of what you are looking for.")]));
    facts.replaceChildren(...about(picture));
    if (focused) /** @type {HTMLElement|null} */ (document.querySelector(`[data-focus="${focused}"]`))?.focus();
  };
  desk.addEventListener("layers", draw);
  desk.addEventListener("history", draw);
  store.on("active labels", draw);
  saver.addEventListener("state", draw);
}

/** @param {Desk} desk @param {Picture} picture @param {Label} label @param {number} index */
function row(desk, picture, label, index) {
  const { store } = desk;
  const layer = desk.loader.layers.get(label.id);
  const shown = Boolean(layer?.visible && !layer.absent);
  const toggle = () => {
    if (!layer) return;
    layer.visible = !shown;
    if (layer.visible && layer.absent) layer.absent = !(layer.shownAnyway = true);
    desk.say("layers");
    desk.redraw();
  };
  return h(
    "li",
    { class: label.id === store.active ? "label-row active" : "label-row", style: `--label: ${label.colour}` },
    h(
      "button",
      { type: "button", class: "choose", "data-focus": `label-${label.id}`, "aria-pressed": String(label.id === store.active), onclick: () => store.setActive(label.id) },
      h("span", { class: "dot" }),
      h("span", { class: "text" }, label.name),
      h("span", { class: "status" }, status(desk, picture, label)),
      index < 9 && h("kbd", {}, String(index + 1)),
    ),
    h("button", { type: "button", class: "bare", "data-focus": `edit-${label.id}`, "aria-label": `Change label ${label.name}`, onclick: () => labelDialog(store, label) }, icon("edit")),
    h("button", { type: "button", class: "bare", "data-focus": `eye-${label.id}`, "aria-pressed": String(shown), "aria-label": `Show ${label.name}`, onclick: toggle }, icon(shown ? "eye" : "hidden")),
  );
}

/** @param {Desk} desk @param {Picture} picture @param {Label} label @returns {string} */
function status(desk, picture, label) {
  if (picture.supports.includes(label.id)) return "example";
  if (desk.saver.pending(picture, label.id)) return "painted";
  if (picture.state === "working" || (picture.state === "waiting" && label.shots)) return "…";
  if (picture.present[label.id] === false) return "absent?";
  const score = picture.scores[label.id];
  return score === undefined ? "" : `${Math.round(100 * score)} %`;
}

/** The one thing to do next with the active label. @param {Desk} desk @param {Picture} picture @param {Label} label @returns {Node[]} */
function action(desk, picture, label) {
  const { saver } = desk;
  if (picture.supports.includes(label.id)) {
    return [
      h("p", { class: "is-example" }, icon("check"), h("span", {}, "This picture is an example of ", h("b", {}, label.name), ".")),
      h("button", { type: "button", class: "quiet wide", "data-focus": "lead", onclick: () => withdraw(desk, picture, label) }, "Remove this example"),
    ];
  }
  if (saver.pending(picture, label.id)) {
    return [h("button", { type: "button", class: "primary wide", "data-focus": "lead", id: "promote", onclick: () => saver.flush() }, icon("star"), "Use as example")];
  }
  if (picture.masks[label.id] && picture.present[label.id] !== false) {
    return [
      h("button", { type: "button", class: "primary wide", "data-focus": "lead", id: "promote", onclick: () => promote(desk) }, icon("star"), "Use as example"),
      h("p", { class: "hint" }, "Right as it is? One press, and the others learn from it. Wrong? Paint over it: that makes it an example too."),
      checkButton(desk, picture),
    ];
  }
  if (picture.present[label.id] === false) {
    return [h("p", { class: "hint" }, `Probably no ${label.name} here. If there is, paint it.`), checkButton(desk, picture)];
  }
  return [h("p", { class: "hint" }, `Paint ${label.name} here, and every other picture is searched for it.`)];
}

/** Says that the masks are right without teaching them. @param {Desk} desk @param {Picture} picture */
function checkButton(desk, picture) {
  const set = () => check(desk);
  return h("button", { type: "button", class: "quiet wide", "data-focus": "check", "aria-pressed": String(picture.checked), title: "Counts as checked when exporting (C)", onclick: set }, icon("check"), picture.checked ? "Checked" : "Mark as checked");
}

/** @param {Desk} desk */
export async function check(desk) {
  const { picture } = desk;
  if (!picture || picture.state !== "done") return;
  const changed = await attempt(() => api.check(picture.id, !picture.checked));
  if (changed?.id) desk.store.setPicture(changed);
}

/** Makes what is shown an example: unsent strokes if there are any, what was found otherwise. @param {Desk} desk */
export async function promote(desk) {
  const { picture, store, saver } = desk;
  const label = store.label(store.active);
  if (!picture || !label || picture.supports.includes(label.id)) return;
  if (saver.pending(picture, label.id)) return void saver.flush();
  if (!picture.masks[label.id]) return;
  const changed = await attempt(() => api.promote(picture.id, label.id));
  if (changed?.id) store.setPicture(changed);
}

/** @param {Desk} desk @param {Picture} picture @param {Label} label */
async function withdraw(desk, picture, label) {
  await desk.saver.flush();
  const changed = await attempt(() => api.withdraw(picture.id, label.id));
  if (changed?.id) desk.store.setPicture(changed);
}

/** @param {Picture} picture @returns {Node[]} */
function about(picture) {
  /** @type {[string, string][]} */
  const lines = [["Size", `${picture.width} × ${picture.height}`]];
  if (picture.state === "failed") lines.push(["Failed", picture.error ?? "unknown reason"]);
  else if (picture.state === "waiting" || picture.state === "working") lines.push(["Masks", "being found …"]);
  else if (picture.confidence !== null && !picture.supports.length) lines.push(["Sure", `${Math.round(100 * picture.confidence)} %`]);
  return lines.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]);
}

/** @param {Desk} desk */
function showDisplay(desk) {
  const { store } = desk;
  const opacity = slider("Opacity", 0, 1, 0.05, () => store.view.opacity, (value) => store.setView({ opacity: value }));
  const toggles = [["masks", "Masks", "M"], ["uncertainty", "Where it is unsure", "U"]].map(([name, text, key]) => {
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
