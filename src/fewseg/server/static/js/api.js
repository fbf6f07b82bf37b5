/** The server's API: one function per request. Errors are one line with a remedy. */

const ROOT = new URL("../api/v1/", import.meta.url);
const TIMEOUT = 60_000; // milliseconds that a request may take

/** A failed request. */
export class ApiError extends Error {
  /** @param {string} message @param {number} status 0 without an answer */
  constructor(message, status) {
    super(message);
    this.status = status;
  }

  /** Whether trying again later may help, with nothing changed. */
  get temporary() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  /** Whether the server requires its token. */
  get denied() {
    return this.status === 401 || this.status === 403;
  }
}

/** @param {string} path @param {Record<string, any>} [query] @returns {string} */
export function address(path, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== null) url.searchParams.set(name, String(value));
  return url.href;
}

/** @param {Response} response @returns {Promise<string>} the server's error line, or a replacement */
async function reason(response) {
  if (response.status === 401 || response.status === 403) {
    return "The server requires its token: open the address that fewseg serve printed.";
  }
  try {
    const { error } = await response.json();
    if (typeof error === "string") return error;
  } catch {
    // not JSON: something between the page and the server answered
  }
  return `The server answered ${response.status} ${response.statusText}: its terminal says more.`;
}

/**
 * @param {string} method
 * @param {string} path
 * @param {{json?: any, blob?: Blob, query?: Record<string, any>, signal?: AbortSignal, keepalive?: boolean}} [options]
 * @returns {Promise<Response>}
 */
async function request(method, path, { json, blob, query, signal, keepalive } = {}) {
  const timeout = AbortSignal.timeout(TIMEOUT);
  /** @type {RequestInit} */
  const init = { method, signal: signal ? AbortSignal.any([signal, timeout]) : timeout, keepalive };
  if (json !== undefined) {
    init.body = JSON.stringify(json);
    init.headers = { "Content-Type": "application/json" };
  } else if (blob) {
    init.body = blob;
    init.headers = { "Content-Type": blob.type };
  }
  let response;
  try {
    response = await fetch(address(path, query), init);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server does not answer: is fewseg serve still running?", 0);
  }
  if (!response.ok) throw new ApiError(await reason(response), response.status);
  return response;
}

/** @param {string} method @param {string} path @param {Parameters<typeof request>[2]} [options] @returns {Promise<any>} */
async function answer(method, path, options) {
  const text = await (await request(method, path, options)).text();
  return text ? JSON.parse(text) : null;
}

/** @param {string} id */
const imagePath = (id) => `pictures/${encodeURIComponent(id)}`;

export const api = {
  /** @returns {Promise<import("./types.js").Info>} */
  info: () => answer("GET", "info"),
  /** @param {{name: string, colour?: string}} label @returns {Promise<import("./types.js").Label>} */
  addLabel: (label) => answer("POST", "labels", { json: label }),
  /** @param {number} id @param {{name?: string, colour?: string, presence_threshold?: number, mask_threshold?: number, default_thresholds?: boolean}} change */
  changeLabel: (id, change) => answer("PATCH", `labels/${id}`, { json: change }),
  /** @param {number} id */
  deleteLabel: (id) => answer("DELETE", `labels/${id}`),
  /** @param {string} id @param {number} side longest side, pixels */
  imageAddress: (id, side) => address(`${imagePath(id)}/image`, { side }),
  /** @param {string} id @param {number} label @param {number} revision @param {number} side longest side, pixels */
  maskAddress: (id, label, revision, side) => address(`${imagePath(id)}/masks/${label}`, { r: revision, side }),
  /** @param {{exclusive: boolean}} change @returns {Promise<import("./types.js").Project>} */
  changeProject: (change) => answer("PATCH", "project", { json: change }),
  /** @param {string} id @param {number} label @param {number} revision */
  uncertaintyAddress: (id, label, revision) => address(`${imagePath(id)}/uncertainty`, { label, r: revision }),
  /** An empty mask says that the label is not there. @param {string} id @param {number} label @param {Blob} mask @param {number} [base] revision of the mask it was painted on @param {boolean} [keepalive] outlives the page; up to 64 KiB */
  annotate: (id, label, mask, base, keepalive) => answer("PUT", `${imagePath(id)}/annotations/${label}`, { blob: mask, keepalive, query: { r: base } }),
  /** @param {string} id @param {number} label @param {number} [seen] revision of the mask */
  promote: (id, label, seen) => answer("PUT", `${imagePath(id)}/annotations/${label}`, { query: { from: "prediction", r: seen } }),
  /** Says that the label is not in the image. @param {string} id @param {number} label @param {number} [seen] revision of the mask */
  refuse: (id, label, seen) => answer("PUT", `${imagePath(id)}/annotations/${label}`, { query: { from: "nothing", r: seen } }),
  /** @param {string} id @param {number} label @param {number} [seen] revision of the mask */
  removeAnnotation: (id, label, seen) => answer("DELETE", `${imagePath(id)}/annotations/${label}`, { query: { r: seen } }),
  /** @param {string} id @param {boolean} checked whether a person has confirmed the masks @param {Record<string, number>} [masks] the revisions that were seen @returns {Promise<import("./types.js").ImageEntry>} */
  check: (id, checked, masks) => answer("PUT", `${imagePath(id)}/checked`, { json: { checked, masks } }),
  /** Lets the server prepare `assist`. @param {string} id */
  prepare: (id) => answer("POST", `${imagePath(id)}/prepare`),
  /** @param {string} id @param {Object} body @param {AbortSignal} signal @returns {Promise<Blob>} */
  assist: async (id, body, signal) => (await request("POST", `${imagePath(id)}/assist`, { json: body, signal })).blob(),
  /** @param {string[]} ids */
  visible: (ids) => answer("POST", "visible", { json: { ids } }),
  /** @returns {Promise<import("./types.js").Project>} */
  undo: () => answer("POST", "undo"),
  /** @returns {Promise<import("./types.js").Project>} */
  redo: () => answer("POST", "redo"),
  /** Scans the folder for new images, and retries failed ones. @returns {Promise<import("./types.js").Project>} */
  rescan: () => answer("POST", "rescan"),
  /** @returns {Promise<{kind: string, pictures: number, labels: {name: string, pictures: number}[]}|null>} annotations that are in the folder already */
  existing: () => answer("GET", "existing"),
  /** @returns {Promise<import("./types.js").Project>} */
  takeExisting: () => answer("POST", "existing"),
  /** @param {number} n @returns {Promise<import("./types.js").Suggestion[]>} */
  suggestions: (n) => answer("GET", "suggestions", { query: { n } }),
  /** @param {{formats: string[], which: string}} what @returns {Promise<{folder: string, path: string, files: number, pictures: number, left_out: number, failed: number}>} */
  export: (what) => answer("POST", "export", { json: what }),
  /** @param {{formats: string[], which: string}} what */
  exportAddress: ({ formats, which }) => address("export.zip", { formats: formats.join(","), which }),
  eventsAddress: () => address("events"),
};
