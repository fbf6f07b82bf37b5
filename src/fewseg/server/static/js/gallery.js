/** The gallery: the way to what is to be checked, filters, order, thumbnails. */

import { find, h, settled } from "./dom.js";
import { labelChips } from "./labels.js";
import { ImageList } from "./image-list.js";
import { FILTERS } from "./store.js";
import { thresholds } from "./thresholds.js";
import { slider } from "./toolbar.js";

/** @type {[import("./types.js").Filter, string, string, string][]} filter, its name, what it shows, the text for an empty result */
const CHOICES = [
  ["all", "All", "Every image", "No images in this folder: put some there, and they are shown here."],
  ["open", "To check", "Images about which you have not decided", "Every image is checked. A good moment to export."],
  ["checked", "Checked", "Images that you painted, accepted or checked", "No image is checked yet: open one, and press A, C or Delete."],
  ["labelled", "Examples", "Images that teach", "No image is an example yet: open one and paint."],
  ["uncertain", "Uncertain", "To check, with a confidence below 60 %", "No uncertain masks. A good moment to export."],
  ["possible", "Possible", "What was nearly found: a presence below that from which masks are shown", "Nothing was nearly found."],
  ["absent", "Absent", "To check, and probably without any label", "No image is predicted to show none of the labels."],
  ["failed", "Failed", "Files that could not be read or segmented", "No image failed."],
];

/** @type {[string, string][]} */
const ORDERS = [
  ["folder", "As in the folder"],
  ["open", "To check first"],
  ["uncertainty", "Least confidence first"],
  ["presence", "Most presence first"],
  ["area", "Largest area first"],
  ["name", "By name"],
];

const RELEVANT = ["filter", "order", "label", "search"]; // parts of the view that choose images

/** @param {import("./store.js").Store} store @returns {{list: ImageList, show: (on: boolean) => void}} */
export function gallery(store) {
  const view = find("#gallery");
  const filters = find("#filters");
  const empty = find("#empty");
  const list = new ImageList(store, find("#grid"));
  labelChips(store, find("#labels"));
  const refine = refinements(store);
  for (const [id, name, what] of CHOICES) {
    filters.append(
      h("button", { type: "button", "data-filter": id, title: what, onclick: () => store.setView({ filter: id }) }, name, h("span", { class: "count" })),
    );
  }
  const review = h("a", { class: "button primary", id: "review", title: "Opens the first image to check: A accepts, C checks, Delete refuses, each goes on to the next" });
  find("#filter-bar").prepend(review);

  const count = () => {
    const images = [...store.images.values()];
    for (const button of filters.children) {
      const { filter } = button.dataset;
      const n = images.filter((image) => FILTERS[filter](image, store.labels)).length;
      button.setAttribute("aria-pressed", String(store.view.filter === filter));
      button.lastElementChild.textContent = String(n);
      button.classList.toggle("none", n === 0);
      button.hidden = !store.taught && ["open", "checked", "uncertain", "possible", "absent"].includes(filter);
    }
    const open = store.shown().filter((image) => FILTERS.open(image, store.labels));
    review.hidden = !store.taught || !open.length;
    review.textContent = `Check ${open.length} image${open.length === 1 ? "" : "s"}`;
    if (open.length) review.href = `#/picture/${encodeURIComponent(open[0].id)}`;
  };
  const draw = () => {
    count();
    refine();
    const shown = store.shown();
    list.show(shown);
    find("#grid").style.setProperty("--row", `${store.view.size}px`);
    empty.hidden = shown.length > 0 || store.connection !== "open";
    empty.textContent = store.view.search || store.view.label ? "No image fits the search and the filters." : (CHOICES.find(([id]) => id === store.view.filter)?.[3] ?? "");
  };
  // Images change in bursts while the server works: the order is updated when they settle.
  const drawSoon = settled(draw, 300);
  const countSoon = settled(count, 50);
  store.on("images connection labels", draw);
  store.on("view", (change) => {
    if (RELEVANT.some((part) => part in change)) draw();
    if ("size" in change) find("#grid").style.setProperty("--row", `${store.view.size}px`);
  });
  store.on("image", () => {
    countSoon();
    if (store.view.filter !== "all" || !["folder", "name"].includes(store.view.order) || store.view.label) drawSoon();
  });
  draw();
  return {
    list,
    show: (on) => {
      view.hidden = !on;
      if (on) list.reportVisible();
    },
  };
}

/** The row of search, label, order, size and thresholds; shown when something was taught. @param {import("./store.js").Store} store @returns {() => void} updates it */
function refinements(store) {
  const host = find("#refine");
  const search = h("input", { type: "text", id: "search", placeholder: "Search names", "aria-label": "Search names", oninput: settled(() => store.setView({ search: search.value }), 150) });
  const label = h("select", { "aria-label": "Label", onchange: () => store.setView({ label: Number(label.value) }) });
  const order = h("select", { id: "order", "aria-label": "Order", onchange: () => store.setView({ order: order.value }) }, ...ORDERS.map(([id, name]) => h("option", { value: id }, name)));
  const size = slider("Size", 90, 360, 10, () => store.view.size, (value) => {
    store.setView({ size: value });
    size.show();
  });
  const sure = h("details", { id: "how-sure" }, h("summary", { class: "button" }, "How sure"), thresholds(store));
  host.replaceChildren(search, label, order, size.element, sure);
  return () => {
    host.hidden = !store.taught && store.images.size < 30;
    const options = [["0", "Every label"], ...store.labels.map(({ id, name }) => [String(id), name])];
    label.replaceChildren(...options.map(([value, name]) => h("option", { value }, name)));
    label.value = String(store.label(store.view.label) ? store.view.label : 0);
    label.hidden = store.labels.length < 2;
    order.value = store.view.order;
    if (document.activeElement !== search) search.value = store.view.search;
    sure.hidden = !store.taught;
    size.show();
  };
}
