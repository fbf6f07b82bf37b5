/** The tools, and the options of the current one. */

import { find, h } from "./dom.js";
import { icon } from "./icons.js";

/** @param {import("./canvas-controller.js").CanvasController} controller */
export function showToolbar(controller) {
  const host = find("#tools");
  const buttons = controller.tools.map((tool) =>
    h(
      "button",
      { type: "button", class: "tool", "data-tool": tool.id, title: `${tool.name} (${tool.key.toUpperCase()}): ${tool.hint}`, "aria-keyshortcuts": tool.key, onclick: () => controller.setTool(tool.id) },
      icon(tool.id),
      h("span", { class: "text" }, tool.name),
    ),
  );
  host.replaceChildren(...buttons);
  const draw = () => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.tool === controller.tool.id));
    controller.stage.dataset.tool = controller.tool.id;
  };
  controller.addEventListener("tool", draw);
  draw();
  showOptions(controller);
  showProposal(controller);
}

/** The bar above the image: size of brush or region, and the tool's hint. @param {import("./canvas-controller.js").CanvasController} controller */
function showOptions(controller) {
  const host = find("#tool-options");
  const { store } = controller;
  const brush = slider("Size", 3, 240, 1, () => store.view.brush, (value) => store.setView({ brush: value }));
  const region = slider("Region", 0, 1, 0.05, () => store.view.region, (value) => {
    store.setView({ region: value });
    controller.assist.resize();
  });
  const operation = h("div", { class: "segments", role: "group", "aria-label": "Polygon" });
  for (const [text, erase] of /** @type {[string, boolean][]} */ ([["Add", false], ["Subtract", true]])) {
    operation.append(h("button", { type: "button", onclick: () => ((controller.erasing = erase), draw()) }, text));
  }
  const hint = h("span", { class: "hint" });
  const holes = h("button", { type: "button", onclick: () => /** @type {any} */ (controller.tool).fill() }, "Fill all holes");
  host.replaceChildren(brush.element, region.element, operation, holes, hint);
  const draw = () => {
    brush.element.hidden = !controller.tool.round;
    region.element.hidden = !controller.tool.assists;
    operation.hidden = controller.tool.id !== "polygon";
    holes.hidden = controller.tool.id !== "piece";
    [...operation.children].forEach((button, index) => button.setAttribute("aria-pressed", String(controller.erasing === Boolean(index))));
    hint.textContent = controller.tool.hint;
    brush.show();
    region.show();
  };
  controller.addEventListener("tool", draw);
  store.on("view", (change) => {
    if ("brush" in change || "region" in change) draw();
    controller.redrawOverlay();
  });
  draw();
}

/** The bar below the image while a region is proposed. @param {import("./canvas-controller.js").CanvasController} controller */
function showProposal(controller) {
  const host = find("#proposal");
  const add = h("button", { type: "button", class: "primary", title: "Add (Enter)", onclick: () => controller.assist.accept(false) }, icon("plus"), "Add");
  const subtract = h("button", { type: "button", title: "Subtract (X)", onclick: () => controller.assist.accept(true) }, icon("minus"), "Subtract");
  const discard = h("button", { type: "button", class: "quiet", title: "Discard (Esc)", onclick: () => controller.assist.discard() }, "Discard");
  const wait = h("span", { class: "hint" }, "Computing …");
  const close = h("button", { type: "button", class: "primary", onclick: () => /** @type {any} */ (controller.tool).finish() }, icon("check"), "Close polygon");
  host.replaceChildren(wait, add, subtract, discard, close);
  const draw = () => {
    const proposed = controller.proposal !== null;
    const corners = /** @type {any} */ (controller.tool).corners?.length ?? 0;
    wait.hidden = proposed || !controller.assist.pending;
    add.hidden = subtract.hidden = discard.hidden = !proposed;
    close.hidden = corners < 3;
    host.hidden = !proposed && !controller.assist.pending && corners < 3;
  };
  controller.addEventListener("proposal", draw);
  controller.addEventListener("tool", draw);
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
