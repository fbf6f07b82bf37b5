/** Says when little of the active label was found, and leads to what was nearly found. */

import { find, h, settled } from "./dom.js";
import { icon } from "./icons.js";

const LITTLE = 0.1; // share of the images

/** @param {import("./store.js").Store} store */
export function showFound(store) {
  const host = find("#found");
  const draw = () => {
    const label = store.label(store.active);
    const { done, total } = store.progress;
    const others = [...store.images.values()].filter((image) => label && image.state === "done" && !image.supports.includes(label.id));
    const found = others.filter((image) => label && image.present[label.id]).length;
    const possible = label ? store.possible(label.id).filter((image) => !image.checked).length : 0;
    const refused = others.filter((image) => label && image.absent.includes(label.id)).length;
    host.hidden = !label?.shots || done < total || !others.length || found > LITTLE * others.length || refused + found > others.length / 2 || store.view.filter === "possible";
    if (host.hidden || !label) return;
    const much = found ? `${label.name} is shown in ${found} of ${others.length} other images.` : `Nothing is surely ${label.name} in the other images yet.`;
    const next = possible ? `${possible} may show it: look at them, and accept, paint or refuse.` : "A second example helps most: choose one that looks different.";
    const look = () => store.setView({ filter: "possible", order: "presence", label: label.id });
    host.replaceChildren(icon("warning"), h("p", {}, h("b", {}, much), " ", next), possible > 0 ? h("button", { type: "button", class: "primary", onclick: look }, "Look") : "");
  };
  store.on("project progress images labels active view", settled(draw, 100));
  draw();
}
