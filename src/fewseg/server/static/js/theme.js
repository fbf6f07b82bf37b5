/** Light, dark, or as the system has it; kept in the browser. */

import { find } from "./dom.js";
import { icon } from "./icons.js";

const KEPT = "fewseg.theme";
/** @type {Record<"auto"|"light"|"dark", "auto"|"light"|"dark">} */
const NEXT = { auto: "light", light: "dark", dark: "auto" };
const ICONS = { auto: "contrast", light: "sun", dark: "moon" };
const NAMES = { auto: "as the system", light: "light", dark: "dark" };

export function chooseTheme() {
  const button = find("#theme");
  /** @type {keyof typeof NEXT} */
  let current = "auto";
  const set = (/** @type {keyof typeof NEXT} */ theme) => {
    current = theme;
    document.documentElement.dataset.theme = theme;
    button.replaceChildren(icon(ICONS[theme]));
    button.setAttribute("aria-label", `Colours: ${NAMES[theme]}`);
    button.title = `Colours: ${NAMES[theme]}`;
    try {
      localStorage.setItem(KEPT, theme);
    } catch {
      // private windows may refuse; the choice then lasts as long as the page
    }
  };
  button.addEventListener("click", () => set(NEXT[current]));
  let kept = null;
  try {
    kept = localStorage.getItem(KEPT);
  } catch {
    // as above
  }
  set(kept === "light" || kept === "dark" ? kept : "auto");
}
