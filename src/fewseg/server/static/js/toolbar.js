/** The tools, and what the one in hand can be told. */

import { find, h } from "./dom.js";
import { icon } from "./icons.js";

/** @param {import("./desk.js").Desk} desk */
export function showToolbar(desk) {
  const host = find("#tools");
  const buttons = desk.tools.map((tool) =>
    h(
      "button",
      { type: "button", class: "tool", "data-tool": tool.id, title: `${tool.name} (${tool.key.toUpperCase()}): ${tool.hint}`, "aria-keyshortcuts": tool.key, onclick: () => desk.setTool(tool.id) },
      icon(tool.id),
      h("span", { class: "text" }, tool.name),
    ),
  );
  host.replaceChildren(...buttons);
  const draw = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.tool === desk.tool.id));
    desk.stage.dataset.tool = desk.tool.id;
  };
  desk.addEventListener("tool", draw);
  draw();
  showOptions(desk);
  showOffer(desk);
}

/** The bar above the picture: the size of brush or region, and what the tool wants. @param {import("./desk.js").Desk} desk */
function showOptions(desk) {
  const host = find("#tool-options");
  const { store } = desk;
  const brush = slider("Size", 3, 240, 1, () => store.view.brush, (value) => store.setView({ brush: value }));
  const region = slider("Region", 0, 1, 0.05, () => store.view.region, (value) => {
    store.setView({ region: value });
    desk.assist.resize();
  });
  const sign = h("div", { class: "segments", role: "group", "aria-label": "Polygon" });
  for (const [text, erase] of /** @type {[string, boolean][]} */ ([["Add", false], ["Remove", true]])) {
    sign.append(h("button", { type: "button", onclick: () => ((desk.erasing = erase), draw()) }, text));
  }
  const hint = h("span", { class: "hint" });
  host.replaceChildren(brush.element, region.element, sign, hint);
  const draw = () => {
    brush.element.hidden = !desk.tool.round;
    region.element.hidden = !desk.tool.assists;
    sign.hidden = desk.tool.id !== "polygon";
    [...sign.children].forEach((button, index) => button.setAttribute("aria-pressed", String(desk.erasing === Boolean(index))));
    hint.textContent = desk.tool.hint;
    brush.show();
    region.show();
  };
  desk.addEventListener("tool", draw);
  store.on("view", (change) => {
    if ("brush" in change || "region" in change) draw();
    desk.redrawOver();
  });
  draw();
}

/** The bar below the picture while a region is on offer. @param {import("./desk.js").Desk} desk */
function showOffer(desk) {
  const host = find("#offer");
  const add = h("button", { type: "button", class: "primary", title: "Add (Enter)", onclick: () => desk.assist.accept(false) }, icon("plus"), "Add");
  const take = h("button", { type: "button", title: "Take away (X)", onclick: () => desk.assist.accept(true) }, icon("minus"), "Take away");
  const discard = h("button", { type: "button", class: "quiet", title: "Discard (Esc)", onclick: () => desk.assist.discard() }, "Discard");
  const wait = h("span", { class: "hint" }, "Looking …");
  const close = h("button", { type: "button", class: "primary", onclick: () => /** @type {any} */ (desk.tool).finish() }, icon("check"), "Close polygon");
  host.replaceChildren(wait, add, take, discard, close);
  const draw = () => {
    const offered = desk.region !== null;
    const corners = /** @type {any} */ (desk.tool).corners?.length ?? 0;
    wait.hidden = offered || !desk.assist.asking;
    add.hidden = take.hidden = discard.hidden = !offered;
    close.hidden = corners < 3;
    host.hidden = !offered && !desk.assist.asking && corners < 3;
  };
  desk.addEventListener("region", draw);
  desk.addEventListener("tool", draw);
  draw();
}

/**
 * @param {string} name @param {number} least @param {number} most @param {number} step
 * @param {() => number} read @param {(value: number) => void} write
 * @returns {{element: HTMLElement, show: () => void}}
 */
export function slider(name, least, most, step, read, write) {
  const input = h("input", { type: "range", min: least, max: most, step, oninput: () => write(Number(input.value)) });
  const element = h("label", { class: "slider" }, h("span", {}, name), input);
  const show = () => {
    input.value = read();
    input.style.setProperty("--value", `${(100 * (Number(input.value) - least)) / (most - least)}%`);
  };
  show();
  return { element, show };
}
