/** Masks as bitmaps and as files, made by a worker so that painting never waits for them. */

const worker = new Worker(new URL("mask-worker.js", import.meta.url), { type: "module" });
/** @type {Map<number, {resolve: (answer: any) => void, reject: (error: Error) => void}>} */
const waiting = new Map();
let asked = 0;

worker.addEventListener("message", ({ data }) => {
  const { resolve, reject } = waiting.get(data.id) ?? {};
  waiting.delete(data.id);
  if (data.error) reject?.(new Error(data.error));
  else resolve?.(data);
});

/** @param {Object} question @param {Transferable[]} [moved] @returns {Promise<any>} */
function ask(question, moved = []) {
  const id = ++asked;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ...question }, moved);
  });
}

/**
 * A mask as a bitmap in one colour whose alpha says where it is.
 * @param {{blob: Blob}|{url: string}} source a grey PNG
 * @param {number} width @param {number} height of the bitmap
 * @param {string} colour "#rrggbb"
 * @returns {Promise<ImageBitmap>}
 */
export async function paintedMask(source, width, height, colour) {
  return (await ask({ task: "paint", ...source, width, height, colour })).bitmap;
}

/**
 * A canvas' alpha, or a smaller grey PNG, as a grey PNG of 0 and 255.
 * @param {HTMLCanvasElement|Blob} source @param {number} width @param {number} height of the file
 * @returns {Promise<{blob: Blob, count: number}>} count: pixels that are on
 */
export async function writtenMask(source, width, height) {
  if (source instanceof Blob) return ask({ task: "write", blob: source, width, height });
  const bitmap = await createImageBitmap(source);
  return ask({ task: "write", bitmap, width, height }, [bitmap]);
}

/** @param {number} width @param {number} height @param {number} most @returns {{width: number, height: number}} longest side at most `most` */
export function fitted(width, height, most) {
  const scale = Math.min(1, most / Math.max(width, height));
  return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
}

/** @param {number} width @param {number} height @returns {HTMLCanvasElement} */
export function canvas(width, height) {
  const made = document.createElement("canvas");
  made.width = width;
  made.height = height;
  return made;
}
