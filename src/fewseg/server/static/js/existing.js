/** At the first start: annotations of other tools that are in the folder already, offered as checked examples. */

import { api } from "./api.js";
import { find, h } from "./dom.js";
import { icon } from "./icons.js";
import { attempt, notice } from "./notices.js";

/** @param {import("./store.js").Store} store */
export function offerExisting(store) {
  const host = find("#existing");
  let asked = false;
  const hide = () => (host.hidden = true);
  const draw = (/** @type {NonNullable<Awaited<ReturnType<typeof api.existing>>>} */ found) => {
    const names = found.labels.slice(0, 6).map(({ name, pictures }) => `${name} (${pictures})`).join(", ");
    const take = async () => {
      button.disabled = true;
      const done = await attempt(() => api.takeExisting());
      button.disabled = false;
      if (!done) return;
      hide();
      notice(`${found.pictures} annotated images are examples or checked now.`);
    };
    const button = h("button", { type: "button", class: "primary", onclick: take }, "Use them");
    host.replaceChildren(
      icon("check"),
      h("p", {}, h("b", {}, `This folder is annotated already (${found.kind}).`), ` ${found.pictures} image${found.pictures === 1 ? "" : "s"} with ${names}${found.labels.length > 6 ? " …" : ""}: use them as checked examples?`),
      button,
      h("button", { type: "button", class: "quiet", onclick: hide }, "Start empty"),
    );
    host.hidden = store.labels.length > 0;
  };
  store.on("labels", () => store.labels.length && hide());
  store.on("connection", async () => {
    if (asked || store.connection !== "open" || store.labels.length) return;
    asked = true;
    const found = await api.existing().catch(() => null); // it is only an offer
    if (found) draw(found);
  });
}
