/** Starts the page. */

import { api } from "./api.js";
import { find, h } from "./dom.js";
import { Drafts } from "./drafts.js";
import { Editor } from "./editor.js";
import { Connection } from "./events.js";
import { offerExisting } from "./existing.js";
import { exportDialog } from "./export-dialog.js";
import { gallery } from "./gallery.js";
import { showFound } from "./found.js";
import { showGuide } from "./guide.js";
import { helpDialog } from "./help-dialog.js";
import { icon } from "./icons.js";
import { attempt, banner, notice } from "./notices.js";
import { showChecked, showProgress, showSaved } from "./progress.js";
import { Saver } from "./saver.js";
import { listenToKeys } from "./shortcuts.js";
import { Store } from "./store.js";
import { showSuggestions } from "./suggestions.js";
import { chooseTheme } from "./theme.js";

for (const place of document.querySelectorAll("[data-icon]")) place.prepend(icon(/** @type {HTMLElement} */ (place).dataset.icon ?? ""));
chooseTheme();

const store = new Store();
const saver = new Saver(store, new Drafts());
const editor = new Editor(store, saver);
const imageGallery = gallery(store);
showGuide(store);
offerExisting(store);
showProgress(store);
showChecked(store);
showFound(store);
showSaved(saver, store);
showSuggestions(store);

/** Shows the gallery or an image, by the address. */
function route() {
  const id = /^#\/picture\/([\w-]+)$/.exec(location.hash)?.[1] ?? null;
  const before = editor.controller.image?.id ?? null;
  editor.show(id);
  if (!editor.open && location.hash.length > 2) history.replaceState(null, "", "#/"); // no such image, or an unreadable one
  document.body.classList.toggle("editing", editor.open);
  imageGallery.show(!editor.open);
  document.title = editor.open ? `${editor.controller.image?.name} – fewseg` : `${store.info?.folder ?? "Images"} – fewseg`;
  if (before && !editor.open) imageGallery.list.mark(before, true);
}

/** Undoes or redoes the project's last change. @param {"undo"|"redo"} which */
async function stepProject(which) {
  if (which === "undo" ? !store.canUndo : !store.canRedo) return;
  await saver.flush();
  const what = store.undoText;
  if ((await attempt(() => api[which]())) === undefined) return;
  if (which === "undo") notice(`Undone: ${what}.`, "info", { text: "Redo", action: () => stepProject("redo") });
}

listenToKeys(store, editor, stepProject);
addEventListener("hashchange", route);
find("#help").addEventListener("click", helpDialog);
find("#export").addEventListener("click", () => exportDialog(store, saver));
const undo = find("#undo");
undo.addEventListener("click", () => stepProject("undo"));
store.on("project", () => {
  undo.disabled = !store.canUndo;
  find("#warnings").replaceChildren(...store.notices.map((text) => h("p", {}, icon("warning"), text)));
  undo.title = store.undoText ? `Undo: ${store.undoText}` : "Nothing to undo";
});

let started = false;
store.on("connection", async () => {
  const lost = store.connection === "lost";
  if (lost) banner("The connection to fewseg is lost. Your strokes are saved in this browser; reconnecting …");
  if (store.connection !== "open") return;
  banner(null);
  if (started) return;
  started = true;
  document.body.classList.remove("starting");
  find("#folder").textContent = store.info?.folder ?? "";
  await saver.resume().catch(() => notice("This browser stores no drafts (a private window?): strokes are safe once “Saved” is shown."));
  route();
});

/** Reloads the page for another folder; unsaved strokes stay in the browser until their folder is served again. */
async function folderChanged() {
  editor.controller.endEdit();
  await saver.saveDrafts().catch(() => {});
  history.replaceState(null, "", "#/");
  location.reload();
}

new Connection(store, (error) => banner(error.message), folderChanged).open();
