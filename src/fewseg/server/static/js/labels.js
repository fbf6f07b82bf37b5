/** Labels: the row of chips that selects the label to paint, and the dialog that adds, changes and deletes labels. */

import { api } from "./api.js";
import { confirmed, openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { attempt } from "./notices.js";
import { quality } from "./quality.js";

/** @typedef {import("./types.js").Label} Label */
/** @typedef {import("./store.js").Store} Store */

/** Colours that are easy to tell apart on photographs, for most people with colour blindness too. */
export const COLOURS = ["#e69f00", "#0091d5", "#00a878", "#d81b60", "#7e57c2", "#f4d35e", "#ef6c33", "#5dade2", "#8bc34a", "#c2185b"];

/** @param {Store} store @returns {string} the first colour that no label has */
function freeColour(store) {
  const taken = new Set(store.labels.map((label) => label.colour.toLowerCase()));
  return COLOURS.find((colour) => !taken.has(colour)) ?? COLOURS[store.labels.length % COLOURS.length];
}

/** @param {Store} store @param {{name: string, colour?: string}} wanted @returns {Promise<Label|undefined>} */
export async function addLabel(store, { name, colour }) {
  const label = await attempt(() => api.addLabel({ name, colour: colour ?? freeColour(store) }));
  if (!label) return undefined;
  store.addLabel(label);
  return label;
}

/**
 * @param {Store} store
 * @param {Label|null} label null adds one
 * @param {() => void} [added]
 */
export function labelDialog(store, label, added) {
  const name = h("input", { type: "text", value: label?.name ?? "", required: true, maxlength: 60, autocomplete: "off", placeholder: "cat, crack, nucleus …" });
  const colour = h("input", { type: "color", value: label?.colour ?? freeColour(store), "aria-label": "Any colour" });
  const swatches = COLOURS.map((value) =>
    h("button", { type: "button", class: "swatch", style: `--label: ${value}`, "aria-label": `Colour ${value}`, onclick: () => (colour.value = value) }),
  );
  const submit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const wanted = { name: name.value.trim(), colour: colour.value };
    if (!wanted.name) return;
    if (label) {
      if ((await attempt(() => api.changeLabel(label.id, wanted))) === undefined) return;
    } else if (!(await addLabel(store, wanted))) return;
    dialog.close();
    if (!label) added?.();
  };
  const remove = async () => {
    dialog.close();
    const text = label?.shots
      ? `Its ${label.shots} example${label.shots === 1 ? "" : "s"} and all its masks are deleted too. Undo restores them.`
      : "No image is an example of it.";
    if (label && (await confirmed(`Delete “${label.name}”?`, text, "Delete label"))) await attempt(() => api.deleteLabel(label.id));
  };
  const dialog = openDialog(label ? "Change label" : "New label", [
    h(
      "form",
      { class: "form", onsubmit: submit },
      h("label", {}, "Name", name),
      h("fieldset", {}, h("legend", {}, "Colour"), h("div", { class: "swatches" }, ...swatches, colour)),
      h(
        "footer",
        {},
        label && h("button", { type: "button", class: "danger quiet start", onclick: remove }, icon("trash"), "Delete"),
        h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button", { type: "submit", class: "primary" }, label ? "Save" : "Add label"),
      ),
    ),
  ]);
  name.focus();
  name.select();
}

/** The chips above the gallery. @param {Store} store @param {HTMLElement} host */
export function labelChips(store, host) {
  const draw = () => {
    const chips = store.labels.map((label) =>
      h(
        "div",
        { class: label.id === store.active ? "chip active" : "chip", style: `--label: ${label.colour}` },
        h(
          "button",
          { type: "button", class: "chip-name", "aria-pressed": String(label.id === store.active), title: `Paint “${label.name}”`, onclick: () => store.setActive(label.id) },
          h("span", { class: "dot" }),
          h("span", { class: "text" }, label.name),
          h("span", { class: "count", title: "examples" }, String(label.shots)),
          quality(label),
        ),
        h("button", { type: "button", class: "bare", "aria-label": `Change label ${label.name}`, onclick: () => labelDialog(store, label) }, icon("edit")),
      ),
    );
    const add = h("button", { type: "button", class: "chip add", onclick: () => labelDialog(store, null) }, icon("plus"), "Label");
    host.replaceChildren(...chips, add);
  };
  store.on("labels active", draw);
  draw();
}
