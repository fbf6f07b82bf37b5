/** The header's progress: images done, time left; and whether all strokes are saved. */

import { find } from "./dom.js";

/** @param {number|null} seconds @returns {string} */
export function timeLeft(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "";
  if (seconds < 1.5) return "a second left";
  if (seconds < 90) return `${Math.round(seconds)} s left`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min left`;
  return `${(seconds / 3600).toFixed(1)} h left`;
}

/** @param {import("./store.js").Store} store */
export function showProgress(store) {
  const host = find("#progress");
  const bar = find("progress", host);
  const text = find(".text", host);
  const draw = () => {
    const { done, total, seconds_left } = store.progress;
    host.hidden = total === 0 || store.labels.every((label) => label.shots === 0);
    host.classList.toggle("done", done >= total);
    bar.max = Math.max(total, 1);
    bar.value = done;
    const left = timeLeft(seconds_left);
    text.textContent = done >= total ? `${total} of ${total} done` : `${done} of ${total}${left && ` · ${left}`}`;
  };
  store.on("progress labels", draw);
  draw();
}

const TEXTS = {
  saved: "Saved",
  saving: "Saving …",
  unsaved: "Unsaved",
  offline: "Saved in this browser",
  refused: "Not saved",
};

const TITLES = {
  saved: "All strokes are on the server.",
  saving: "Uploading to the server.",
  unsaved: "Saved in this browser; uploaded when you pause.",
  offline: "The server does not answer. Strokes are saved in this browser and uploaded when it is back.",
  refused: "The server refused a mask; see the message. It stays in this browser until you paint again.",
};

/** @param {import("./saver.js").Saver} saver @param {import("./store.js").Store} store */
export function showSaved(saver, store) {
  const host = find("#saved");
  const draw = () => {
    const { state } = saver;
    host.dataset.state = state;
    host.title = TITLES[state];
    find(".text", host).textContent = TEXTS[state];
  };
  saver.addEventListener("state", draw);
  store.on("connection", draw);
  draw();
}

/** "12 of 40 checked": how far the person is. @param {import("./store.js").Store} store */
export function showChecked(store) {
  const host = find("#checked");
  const draw = () => {
    const images = [...store.images.values()].filter((image) => image.state !== "failed");
    const checked = images.filter((image) => image.checked).length;
    host.hidden = !store.taught;
    host.title = "Images about whose masks you decided: painted, accepted, checked or not here";
    find(".done", host).textContent = String(checked);
    find(".all", host).textContent = String(images.length);
    host.classList.toggle("all-done", checked === images.length);
  };
  store.on("project image images labels", draw);
  draw();
}
