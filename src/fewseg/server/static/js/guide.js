/** First use: three steps, each ticked when it is done; hidden after the first example. */

import { find, h } from "./dom.js";
import { icon } from "./icons.js";
import { addLabel } from "./labels.js";

/** @param {import("./store.js").Store} store */
export function showGuide(store) {
  const host = find("#guide");
  const name = h("input", { type: "text", required: true, maxlength: 60, autocomplete: "off", placeholder: "cat, crack, nucleus …", "aria-label": "Name of the first label" });
  const form = h(
    "form",
    { class: "inline-form", onsubmit: (/** @type {Event} */ event) => {
      event.preventDefault();
      if (name.value.trim()) addLabel(store, { name: name.value.trim() });
    } },
    name,
    h("button", { type: "submit", class: "primary" }, "Add"),
  );

  const draw = () => {
    const named = store.labels.length > 0;
    const taught = store.labels.some((label) => label.shots > 0);
    host.hidden = store.connection === "connecting" || taught || store.images.size === 0;
    const label = store.label(store.active)?.name ?? "it";
    const steps = [
      step(1, "Name it", named ? `Label “${label}” is ready.` : "What are you looking for?", named, named ? null : form),
      step(2, "Paint it once", named ? `Open an image below that shows ${label}, and paint over it.` : "Open an image and paint over the object: brush, box or a single click.", false),
      step(3, "Check the rest", "Its masks appear on all images. Correct a wrong one, and all improve. Then export.", false),
    ];
    steps[named ? 1 : 0].classList.add("now");
    host.replaceChildren(h("h2", {}, "Teach with one image"), h("ol", { class: "steps" }, ...steps));
  };
  store.on("labels images connection active", draw);
  draw();
}

/** @param {number} number @param {string} title @param {string} text @param {boolean} done @param {Node|null} [extra] */
function step(number, title, text, done, extra = null) {
  return h(
    "li",
    { class: done ? "step done" : "step" },
    h("span", { class: "number", "aria-hidden": "true" }, done ? icon("check") : String(number)),
    h("div", {}, h("h3", {}, title), h("p", {}, text), extra),
  );
}
