/** "Label these next": the images whose masks would improve the model most. */

import { api } from "./api.js";
import { find, h, settled } from "./dom.js";
import { icon } from "./icons.js";

const COUNT = 5;

/** @param {import("./store.js").Store} store */
export function showSuggestions(store) {
  const host = find("#suggestions");
  const row = find(".row", host);
  let revision = -1;

  const draw = (/** @type {import("./types.js").Suggestion[]} */ suggestions) => {
    const known = suggestions.filter(({ id }) => store.images.has(id));
    host.hidden = known.length === 0;
    row.replaceChildren(
      ...known.map(({ id, reason }) => {
        const image = /** @type {import("./types.js").ImageEntry} */ (store.images.get(id));
        return h(
          "a",
          { class: "suggestion", href: `#/picture/${encodeURIComponent(id)}`, title: `${image.name}: ${reason}` },
          h("img", { src: api.imageAddress(id, 160), alt: "" }),
          h("span", { class: "words" }, h("b", {}, image.name), h("span", {}, reason)),
          icon("next"),
        );
      }),
    );
  };
  const refresh = settled(async () => {
    const taught = store.labels.some((label) => label.shots > 0);
    const { done, total } = store.progress;
    if (!taught || !total) return draw([]);
    if (done < total || revision === store.revision || store.connection !== "open") return undefined;
    revision = store.revision;
    // Suggestions are optional: errors are ignored.
    return draw(await api.suggestions(COUNT).catch(() => []));
  }, 700);
  store.on("connection", () => store.connection === "lost" && (revision = -1)); // thumbnails may be missing
  store.on("project progress connection", refresh);
}
