/** The folder at a glance: filters, order, thumbnails. */

import { find, h, settled } from "./dom.js";
import { labelChips } from "./labels.js";
import { PictureList } from "./picture-list.js";
import { FILTERS } from "./store.js";

/** @type {[import("./types.js").Filter, string, string][]} filter, its name, what is said when nothing passes */
const CHOICES = [
  ["all", "All", "No pictures in this folder: put some there and start fewseg serve again."],
  ["labelled", "Examples", "No picture is an example yet: open one and paint."],
  ["unsure", "Unsure", "No unsure masks. A good moment to export."],
  ["absent", "Absent", "No picture is judged to show none of the labels."],
  ["failed", "Failed", "Nothing failed."],
];

/** @param {import("./store.js").Store} store @returns {{list: PictureList, show: (on: boolean) => void}} */
export function gallery(store) {
  const view = find("#gallery");
  const filters = find("#filters");
  const empty = find("#nothing");
  const order = find("#order");
  const list = new PictureList(store, find("#grid"));
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
      const n = [...store.pictures.values()].filter(FILTERS[filter]).length;
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
  // Pictures change in bursts while the server works; the order follows when they settle, so that nothing jumps about.
  const drawSoon = settled(draw, 300);
  store.on("pictures connection", draw);
  store.on("view", (change) => ("filter" in change || "order" in change) && draw());
  store.on("picture", () => {
    count();
    if (store.view.filter !== "all" || store.view.order !== "folder") drawSoon();
  });
  draw();
  return {
    list,
    show: (on) => {
      view.hidden = !on;
      if (on) list.tell();
    },
  };
}
