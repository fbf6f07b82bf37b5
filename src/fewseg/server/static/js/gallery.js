/** The gallery: filters, order, thumbnails. */

import { find, h, settled } from "./dom.js";
import { labelChips } from "./labels.js";
import { ImageList } from "./image-list.js";
import { FILTERS } from "./store.js";

/** @type {[import("./types.js").Filter, string, string][]} filter, its name, the text for an empty result */
const CHOICES = [
  ["all", "All", "No images in this folder: put some there, and they are shown here."],
  ["labelled", "Examples", "No image is an example yet: open one and paint."],
  ["uncertain", "Uncertain", "No uncertain masks. A good moment to export."],
  ["absent", "Absent", "No image is predicted to show none of the labels."],
  ["failed", "Failed", "No image failed."],
];

/** @param {import("./store.js").Store} store @returns {{list: ImageList, show: (on: boolean) => void}} */
export function gallery(store) {
  const view = find("#gallery");
  const filters = find("#filters");
  const empty = find("#empty");
  const order = find("#order");
  const list = new ImageList(store, find("#grid"));
  labelChips(store, find("#labels"));

  for (const [id, name] of CHOICES) {
    filters.append(
      h("button", { type: "button", "data-filter": id, onclick: () => store.setView({ filter: id }) }, name, h("span", { class: "count" })),
    );
  }
  order.addEventListener("change", () => store.setView({ order: order.value }));

  const count = () => {
    for (const button of filters.children) {
      const { filter } = button.dataset;
      const n = [...store.images.values()].filter(FILTERS[filter]).length;
      button.setAttribute("aria-pressed", String(store.view.filter === filter));
      button.lastElementChild.textContent = String(n);
      button.classList.toggle("none", n === 0);
    }
  };
  const draw = () => {
    count();
    order.value = store.view.order;
    const shown = store.shown();
    list.show(shown);
    empty.hidden = shown.length > 0 || store.connection !== "open";
    empty.textContent = CHOICES.find(([id]) => id === store.view.filter)?.[2] ?? "";
  };
  // Images change in bursts while the server works: the order is updated when they settle.
  const drawSoon = settled(draw, 300);
  store.on("images connection", draw);
  store.on("view", (change) => ("filter" in change || "order" in change) && draw());
  store.on("image", () => {
    count();
    if (store.view.filter !== "all" || store.view.order !== "folder") drawSoon();
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
