/** The export dialog: which masks, which formats, into the folder or as a download. */

import { api } from "./api.js";
import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { attempt, notice } from "./notices.js";

/** @type {[string, string, string, boolean][]} id, name, description, whether selected at first */
export const FORMATS = [
  ["png", "PNG masks", "A black and white image per label, and one with the label's number in every pixel", true],
  ["coco", "COCO JSON", "Polygons in one file, read by most tools", true],
  ["coco-rle", "COCO JSON, RLE", "The same, exact to the pixel", false],
  ["yolo", "YOLO", "A text file of polygons per image", false],
  ["labelme", "labelme", "A JSON file per image", false],
  ["geojson", "GeoJSON", "A file of polygons per image, in pixels", false],
  ["overlays", "Overlays", "Images with their masks drawn on them", false],
  ["sheet", "Contact sheet", "All images with their masks on one sheet", false],
];

/** @param {import("./store.js").Store} store @param {import("./saver.js").Saver} saver */
export function exportDialog(store, saver) {
  const checked = [...store.images.values()].filter((image) => image.checked).length;
  const boxes = FORMATS.map(([id, name, what, on]) =>
    h("label", { class: "option" }, h("input", { type: "checkbox", name: "format", value: id, checked: on }), h("span", {}, h("b", {}, name), h("small", {}, what))),
  );
  const which = [
    ["all", `All ${store.images.size} images`, "Predicted masks and examples"],
    ["checked", `Only the ${checked} checked`, "Painted, accepted, checked or not here"],
  ].map(([value, name, what]) =>
    h("label", { class: "option" }, h("input", { type: "radio", name: "which", value, checked: value === "all" }), h("span", {}, h("b", {}, name), h("small", {}, what))),
  );
  const wanted = () => ({
    formats: [...form.querySelectorAll("[name=format]:checked")].map((box) => box.value),
    which: form.querySelector("[name=which]:checked").value,
  });
  const ready = () => {
    const none = wanted().formats.length === 0;
    form.querySelectorAll("footer button").forEach((/** @type {HTMLButtonElement} */ button) => (button.disabled = none));
  };
  const write = async (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const button = /** @type {HTMLButtonElement} */ (event.submitter ?? form.querySelector(".primary"));
    button.disabled = true;
    await saver.flush();
    const done = await attempt(() => api.export(wanted()));
    button.disabled = false;
    if (!done) return;
    dialog.close();
    const left = done.left_out ? ` ${done.left_out} left out: their masks are not ready yet.` : "";
    const failed = done.failed ? ` ${done.failed} left out: they failed.` : "";
    notice(`Wrote ${done.files} file${done.files === 1 ? "" : "s"} into ${done.path}.${left}${failed}`);
  };
  const download = async () => {
    await saver.flush();
    const link = h("a", { href: api.exportAddress(wanted()), download: "" });
    link.click();
    dialog.close();
  };
  const form = h(
    "form",
    { class: "form", onsubmit: write, onchange: () => ready() },
    h("fieldset", {}, h("legend", {}, "Which"), h("div", { class: "options" }, ...which)),
    h("fieldset", {}, h("legend", {}, "Formats"), h("div", { class: "options" }, ...boxes)),
    store.progress.done < store.progress.total && h("p", { class: "hint" }, icon("clock"), "Masks are still being predicted: missing ones will not be exported."),
    h("footer", {}, h("button", { type: "button", onclick: download }, "Download .zip"), h("button", { type: "submit", class: "primary" }, icon("export"), "Write into the folder")),
  );
  const dialog = openDialog("Export", [form], { wide: true });
}
