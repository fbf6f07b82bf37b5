/** Dialogs: the browser's own, which keep the focus inside and close with Escape. */

import { find, h } from "./dom.js";
import { icon } from "./icons.js";

/**
 * @param {string} title
 * @param {(Node|string|null)[]} content
 * @param {{wide?: boolean}} [options]
 * @returns {HTMLDialogElement} shown; it leaves the page when it is closed
 */
export function openDialog(title, content, { wide = false } = {}) {
  const heading = `dialog-${Date.now()}`;
  const dialog = /** @type {HTMLDialogElement} */ (
    h(
      "dialog",
      { class: wide ? "dialog wide" : "dialog", "aria-labelledby": heading },
      h(
        "header",
        {},
        h("h2", { id: heading }, title),
        h("button", { class: "bare", type: "button", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")),
      ),
      ...content,
    )
  );
  dialog.addEventListener("close", () => {
    document.body.append(find("#notices"));
    dialog.remove();
  });
  dialog.addEventListener("pointerdown", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** @param {string} title @param {string} text @param {string} action what the button says @returns {Promise<boolean>} */
export function confirmed(title, text, action) {
  return new Promise((resolve) => {
    let answer = false;
    const finish = (/** @type {boolean} */ yes) => {
      answer = yes;
      dialog.close();
    };
    const dialog = openDialog(title, [
      h("p", {}, text),
      h(
        "footer",
        {},
        h("button", { type: "button", onclick: () => finish(false) }, "Cancel"),
        h("button", { type: "button", class: "danger", onclick: () => finish(true) }, action),
      ),
    ]);
    dialog.addEventListener("close", () => resolve(answer));
  });
}
