/** Progress in the header: pictures done, time left; and whether what was painted is safe. */

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

const SAFE = {
  saved: "Saved",
  saving: "Saving …",
  unsaved: "Unsaved",
  kept: "Kept in this browser",
  refused: "Not saved",
};

const WHY = {
  saved: "The server has everything.",
  saving: "On its way to the server.",
  unsaved: "Kept in this browser; sent when your hand rests.",
  kept: "The server is away. Strokes are kept in this browser and sent when it is back.",
  refused: "The server refused a mask: the message said why. It is kept in this browser until you paint again.",
};

/** @param {import("./saver.js").Saver} saver @param {import("./store.js").Store} store */
export function showSaved(saver, store) {
  const host = find("#saved");
  const draw = () => {
    const { state } = saver;
    host.dataset.state = state;
    host.title = WHY[state];
    find(".text", host).textContent = SAFE[state];
  };
  saver.addEventListener("state", draw);
  store.on("connection", draw);
  draw();
}
