/** One-line messages: temporary ones at the bottom, permanent ones in a banner at the top. */

import { find, h } from "./dom.js";
import { icon } from "./icons.js";

const SECONDS = { info: 5, error: 12 };

/**
 * @param {string} text one line
 * @param {"info"|"error"} [kind]
 * @param {{text: string, action: () => any}} [offer] a button beside the text
 * @param {string} [about] it takes the place of another notice about the same
 */
export function notice(text, kind = "info", offer, about = text) {
  const host = find("#notices");
  (document.querySelector("dialog[open]") ?? document.body).append(host); // what lies outside an open dialog is dimmed
  for (const same of [...host.children]) if (same.dataset.about === about) same.remove();
  const close = () => line.remove();
  const line = h(
    "div",
    { class: `notice ${kind}`, "data-about": about, role: kind === "error" ? "alert" : "status" },
    kind === "error" && icon("warning"),
    h("span", {}, text),
    offer && h("button", { class: "quiet", onclick: () => (close(), offer.action()) }, offer.text),
    h("button", { class: "bare", "aria-label": "Dismiss", onclick: close }, icon("close")),
  );
  host.append(line);
  while (host.children.length > 3) host.firstElementChild.remove();
  setTimeout(close, 1000 * SECONDS[kind]);
}

/** @param {unknown} error shown as a notice */
export function showError(error) {
  notice(error instanceof Error ? error.message : String(error), "error");
}

/** @param {string|null} text null hides the banner */
export function banner(text) {
  const host = find("#banner");
  if (host.textContent === (text ?? "")) return;
  host.hidden = text === null;
  host.replaceChildren(...(text === null ? [] : [icon("warning"), h("span", {}, text)]));
}

/** Runs an action, and shows its error where it fails. @template T @param {() => Promise<T>} action @returns {Promise<T|undefined>} */
export async function attempt(action) {
  try {
    return await action();
  } catch (error) {
    showError(error);
    return undefined;
  }
}
