/** "Label these next": the pictures whose masks would teach the most. */

import { api } from "./api.js";
import { find, h, settled } from "./dom.js";
import { icon } from "./icons.js";

const MOST = 5;

/** @param {import("./store.js").Store} store */
export function showSuggestions(store) {
  const host = find("#suggestions");
  const row = find(".row", host);
  let asked = -1;

  const draw = (/** @type {import("./types.js").Suggestion[]} */ suggestions) => {
    const known = suggestions.filter(({ id }) => store.pictures.has(id));
    host.hidden = known.length === 0;
    row.replaceChildren(
      ...known.map(({ id, reason }) => {
        const picture = /** @type {import("./types.js").Picture} */ (store.pictures.get(id));
        return h(
          "a",
          { class: "suggestion", href: `#/picture/${encodeURIComponent(id)}`, title: `${picture.name}: ${reason}` },
          h("img", { src: api.imageAddress(id, 160), alt: "" }),
          h("span", { class: "words" }, h("b", {}, picture.name), h("span", {}, reason)),
          icon("next"),
        );
      }),
    );
  };
  const refresh = settled(async () => {
    const taught = store.labels.some((label) => label.shots > 0);
    const { done, total } = store.progress;
    if (!taught || !total) return draw([]);
    if (done < total || asked === store.revision || store.connection !== "open") return undefined;
    asked = store.revision;
    // Advice only: where it fails, the page is whole without it.
    return draw(await api.suggestions(MOST).catch(() => []));
  }, 700);
  store.on("project progress connection", refresh);
}
