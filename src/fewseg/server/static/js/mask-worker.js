/**
 * Masks off the main thread. Two questions, each answered by `{id, ...}` or `{id, error}`:
 *
 * `paint`: a grey PNG (blob, or its address) -> a bitmap (width, height) whose alpha is the mask, in `colour`.
 * `write`: a bitmap or PNG whose alpha (or grey) is the mask -> an 8-bit grey PNG of 0 and 255 at width x height, and how
 * many of its pixels are on.
 */

import { greyPng } from "./png.js";

self.addEventListener("message", async ({ data }) => {
  try {
    const answer = data.task === "paint" ? await paint(data) : await write(data);
    /** @type {any} */ (self).postMessage({ id: data.id, ...answer }, answer.bitmap ? [answer.bitmap] : []);
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error instanceof Error ? error.message : error) });
  }
});

/** @param {ImageBitmap} bitmap @param {number} width @param {number} height @returns {ImageData} */
function pixels(bitmap, width, height) {
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true }));
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
}

/** @param {{blob?: Blob, url?: string, width: number, height: number, colour: string}} ask */
async function paint({ blob, url, width, height, colour }) {
  if (url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`no mask: ${response.status}`);
    blob = await response.blob();
  }
  const image = pixels(await createImageBitmap(/** @type {Blob} */ (blob)), width, height);
  const value = parseInt(colour.slice(1), 16);
  const words = new Uint32Array(image.data.buffer); // ABGR: every machine that runs browsers is little-endian
  const paintOf = ((value & 255) << 16) | (value & 0xff00) | (value >> 16);
  for (let i = 0; i < words.length; i++) words[i] = ((words[i] & 255) << 24) | paintOf;
  return { bitmap: await createImageBitmap(image) };
}

/** @param {{bitmap: ImageBitmap, width: number, height: number}|{blob: Blob, width: number, height: number}} ask */
async function write(ask) {
  const { width, height } = ask;
  const ofPng = "blob" in ask;
  const image = pixels(ofPng ? await createImageBitmap(ask.blob) : ask.bitmap, width, height);
  const grey = new Uint8Array(width * height);
  const channel = ofPng ? 0 : 3;
  let count = 0;
  for (let i = 0, at = channel; i < grey.length; i++, at += 4) {
    if (image.data[at] < 128) continue;
    grey[i] = 255;
    count++;
  }
  return { blob: await greyPng(grey, width, height), count };
}
