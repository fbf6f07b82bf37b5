/** Light, dark or the system's colours; the choice is stored in the browser. */

import { find } from "./dom.js";
import { icon } from "./icons.js";

const STORAGE_KEY = "fewseg.theme";
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
      localStorage.setItem(STORAGE_KEY, theme);
    } catch {
      // private windows may refuse; the choice then lasts until the page is closed
    }
  };
  button.addEventListener("click", () => set(NEXT[current]));
  let stored = null;
  try {
    stored = localStorage.getItem(STORAGE_KEY);
  } catch {
    // as above
  }
  set(stored === "light" || stored === "dark" ? stored : "auto");
}
