/** Puts the page together. */

import { api } from "./api.js";
import { find, h } from "./dom.js";
import { Drafts } from "./drafts.js";
import { Editor } from "./editor.js";
import { Connection } from "./events.js";
import { exportDialog } from "./exporting.js";
import { gallery } from "./gallery.js";
import { showGuide } from "./guide.js";
import { helpDialog } from "./help.js";
import { icon } from "./icons.js";
import { attempt, banner, notice } from "./notices.js";
import { showProgress, showSaved } from "./progress.js";
import { Saver } from "./saver.js";
import { listenToKeys } from "./shortcuts.js";
import { Store } from "./store.js";
import { showSuggestions } from "./suggestions.js";
import { chooseTheme } from "./theme.js";

for (const place of document.querySelectorAll("[data-icon]")) place.prepend(icon(/** @type {HTMLElement} */ (place).dataset.icon ?? ""));
chooseTheme();

const store = new Store();
const saver = new Saver(store, new Drafts());
const pictures = gallery(store);
const editor = new Editor(store, saver);
showGuide(store);
showProgress(store);
showSaved(saver, store);
showSuggestions(store);

/** Shows what the address says: all pictures, or one. */
function route() {
  const id = /^#\/picture\/([\w-]+)$/.exec(location.hash)?.[1] ?? null;
  const before = editor.desk.picture?.id ?? null;
  editor.show(id);
  if (!editor.open && location.hash.length > 2) history.replaceState(null, "", "#/"); // no such picture, or none to show
  document.body.classList.toggle("editing", editor.open);
  pictures.show(!editor.open);
  document.title = editor.open ? `${editor.desk.picture?.name} – fewseg` : `${store.info?.folder ?? "Pictures"} – fewseg`;
  if (before && !editor.open) pictures.list.mark(before, true);
}

/** Takes the project's last change back, or makes it again. @param {"undo"|"redo"} which */
async function stepProject(which) {
  if (which === "undo" ? !store.canUndo : !store.canRedo) return;
  await saver.flush();
  const what = store.undoText;
  if ((await attempt(() => api[which]())) === undefined) return;
  if (which === "undo") notice(`Taken back: ${what}.`, "info", { text: "Redo", action: () => stepProject("redo") });
}

listenToKeys(store, editor, stepProject);
addEventListener("hashchange", route);
find("#help").addEventListener("click", helpDialog);
find("#export").addEventListener("click", () => exportDialog(store, saver));
const undo = find("#undo");
undo.addEventListener("click", () => stepProject("undo"));
store.on("project", () => {
  undo.disabled = !store.canUndo;
  find("#troubles").replaceChildren(...store.notices.map((text) => h("p", {}, icon("warning"), text)));
  undo.title = store.undoText ? `Undo: ${store.undoText}` : "Nothing to undo";
});

let started = false;
store.on("connection", async () => {
  const lost = store.connection === "lost";
  if (lost) banner("The connection to fewseg is lost. Your strokes are kept in this browser; trying again …");
  if (store.connection !== "open") return;
  banner(null);
  if (started) return;
  started = true;
  document.body.classList.remove("starting");
  find("#folder").textContent = store.info?.folder ?? "";
  await saver.resume().catch(() => notice("This browser keeps no drafts (a private window?): strokes are safe once “Saved” is shown."));
  route();
});

/** Another folder is served now: its page starts afresh, and the strokes of this one wait in the browser for their folder. */
async function moved() {
  editor.desk.endEdit();
  await saver.keep().catch(() => {});
  history.replaceState(null, "", "#/");
  location.reload();
}

new Connection(store, (error) => banner(error.message), moved).open();
