/** How sure to be before a label is shown, and before a pixel belongs to it: two sliders for the active label, live. */

import { api } from "./api.js";
import { h, settled } from "./dom.js";
import { attempt } from "./notices.js";
import { slider } from "./toolbar.js";

const DELAY = 120; // milliseconds without a movement before the server hears of it

/** @param {import("./store.js").Store} store @returns {HTMLElement} */
export function thresholds(store) {
  /** @type {{presence_threshold?: number, mask_threshold?: number}} */
  let moved = {};
  const send = settled(async () => {
    const change = moved;
    moved = {};
    if (store.active !== null) await attempt(() => api.changeLabel(/** @type {number} */ (store.active), change));
  }, DELAY);
  const control = (/** @type {string} */ name, /** @type {"presence_threshold"|"mask_threshold"} */ field, /** @type {number} */ least, /** @type {number} */ most) =>
    slider(name, least, most, 0.01, () => moved[field] ?? store.label(store.active)?.[field] ?? 0.5, (value) => {
      moved[field] = value;
      send();
      draw();
    });
  const presence = control("Presence from", "presence_threshold", 0, 1);
  const mask = control("Pixels from", "mask_threshold", 0.05, 0.95);
  presence.element.title = "An image shows the label from this presence on: lower finds more, higher refuses more";
  mask.element.title = "A pixel belongs to the mask from this probability on: lower makes masks larger, higher smaller";
  const count = h("span", { class: "hint" });
  const reset = h("button", { type: "button", class: "quiet", onclick: () => store.active !== null && attempt(() => api.changeLabel(store.active ?? 0, { default_thresholds: true })) }, "Automatic");
  const element = h("div", { class: "thresholds" }, presence.element, mask.element, h("div", { class: "below" }, count, reset));
  const draw = () => {
    const label = store.label(store.active);
    element.hidden = !label?.shots;
    if (!label) return;
    presence.show();
    mask.show();
    const images = [...store.images.values()].filter((image) => image.scores[label.id] !== undefined);
    const limit = moved.presence_threshold;
    const shown = images.filter((image) => (limit === undefined || image.confidences[label.id] === undefined ? image.present[label.id] : image.scores[label.id] >= limit));
    count.textContent = `${label.name} in ${shown.length} of ${images.length}`;
    reset.disabled = !label.own_thresholds;
  };
  store.on("labels active image images", draw);
  draw();
  return element;
}
