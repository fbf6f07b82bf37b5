/** Decodes and encodes masks in a worker, so that painting never waits. */

const worker = new Worker(new URL("mask-worker.js", import.meta.url), { type: "module" });
/** @type {Map<number, {resolve: (answer: any) => void, reject: (error: Error) => void}>} */
const pending = new Map();
let lastId = 0;

worker.addEventListener("message", ({ data }) => {
  const { resolve, reject } = pending.get(data.id) ?? {};
  pending.delete(data.id);
  if (data.error) reject?.(new Error(data.error));
  else resolve?.(data);
});

/** @param {Object} message @param {Transferable[]} [transferred] @returns {Promise<any>} the worker's response */
function request(message, transferred = []) {
  const id = ++lastId;
  return new Promise((resolve, reject) => {
    pending.set(id, { resolve, reject });
    worker.postMessage({ id, ...message }, transferred);
  });
}

/**
 * A mask as a bitmap of one colour whose alpha is the mask.
 * @param {{blob: Blob}|{url: string}} source a grey PNG
 * @param {number} width @param {number} height of the bitmap
 * @param {string} colour "#rrggbb"
 * @returns {Promise<ImageBitmap>}
 */
export async function decodedMask(source, width, height, colour) {
  return (await request({ task: "decode", ...source, width, height, colour })).bitmap;
}

/**
 * A canvas' alpha, or a smaller grey PNG, as a grey PNG of 0 and 255.
 * @param {HTMLCanvasElement|Blob} source @param {number} width @param {number} height of the file
 * @returns {Promise<{blob: Blob, count: number}>} count: foreground pixels
 */
export async function encodedMask(source, width, height) {
  if (source instanceof Blob) return request({ task: "encode", blob: source, width, height });
  const bitmap = await createImageBitmap(source);
  return request({ task: "encode", bitmap, width, height }, [bitmap]);
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
