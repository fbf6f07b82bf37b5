/**
 * Decodes and encodes masks off the main thread. Two tasks, each answered by `{id, ...}` or `{id, error}`:
 *
 * `decode`: a grey PNG (blob, or its URL) -> a bitmap (width, height) of one `colour` whose alpha is the mask.
 * `encode`: a bitmap or PNG whose alpha (or grey) is the mask -> an 8-bit grey PNG of 0 and 255 at width x height, and
 * the number of foreground pixels.
 */

import { greyPng } from "./png.js";

self.addEventListener("message", async ({ data }) => {
  try {
    const answer = data.task === "decode" ? await decode(data) : await encode(data);
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

/** @param {{blob?: Blob, url?: string, width: number, height: number, colour: string}} request */
async function decode({ blob, url, width, height, colour }) {
  if (url) {
    const response = await fetch(url);
    if (!response.ok) throw new Error(`no mask: ${response.status}`);
    blob = await response.blob();
  }
  const imageData = pixels(await createImageBitmap(/** @type {Blob} */ (blob)), width, height);
  const value = parseInt(colour.slice(1), 16);
  const pixelWords = new Uint32Array(imageData.data.buffer); // ABGR: browsers run on little-endian machines only
  const opaque = ((value & 255) << 16) | (value & 0xff00) | (value >> 16);
  for (let i = 0; i < pixelWords.length; i++) pixelWords[i] = ((pixelWords[i] & 255) << 24) | opaque;
  return { bitmap: await createImageBitmap(imageData) };
}

/** @param {{bitmap: ImageBitmap, width: number, height: number}|{blob: Blob, width: number, height: number}} request */
async function encode(request) {
  const { width, height } = request;
  const fromPng = "blob" in request;
  const imageData = pixels(fromPng ? await createImageBitmap(request.blob) : request.bitmap, width, height);
  const grey = new Uint8Array(width * height);
  const channel = fromPng ? 0 : 3;
  let count = 0;
  for (let i = 0, at = channel; i < grey.length; i++, at += 4) {
    if (imageData.data[at] < 128) continue;
    grey[i] = 255;
    count++;
  }
  return { blob: await greyPng(grey, width, height), count };
}
