/**
 * Masks that the server has not confirmed, in the browser's database (IndexedDB), so that a closed or killed page loses
 * no stroke.
 *
 * @typedef {Object} Draft
 * @property {string} key project, image and label
 * @property {string} project
 * @property {string} picture id
 * @property {string} name the image's name, and its size: after a restart its id alone may belong to another image
 * @property {number} width
 * @property {number} height
 * @property {number} label id
 * @property {number} version grows with every stroke
 * @property {number} count pixels that are on
 * @property {Blob} mask grey PNG, at the size it was painted in
 * @property {number} [base] revision of the mask it was painted on
 * @property {boolean} [withdrawn] all its strokes were undone
 * @property {boolean} [fullSize] whether that is the image's size; drafts of earlier versions do not say
 */

const NAME = "fewseg";
const TABLE = "drafts";

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.addEventListener("success", () => resolve(request.result));
    request.addEventListener("error", () => reject(request.error));
  });
}

export class Drafts {
  /** @type {Promise<IDBDatabase>|null} */
  #database = null;

  /** @param {IDBTransactionMode} mode @returns {Promise<IDBObjectStore>} */
  async #table(mode) {
    if (!this.#database) {
      const opening = indexedDB.open(NAME, 1);
      opening.addEventListener("upgradeneeded", () => opening.result.createObjectStore(TABLE, { keyPath: "key" }));
      this.#database = done(opening);
    }
    return (await this.#database).transaction(TABLE, mode).objectStore(TABLE);
  }

  /** @param {Draft} draft replaces the draft of the same key */
  async put(draft) {
    await done((await this.#table("readwrite")).put(draft));
  }

  /** @param {string} key @param {number} version removed only if no later version was stored meanwhile */
  async remove(key, version) {
    const table = await this.#table("readwrite");
    const stored = await done(table.get(key));
    if (stored && stored.version <= version) await done(table.delete(key));
  }

  /** @param {string} project @returns {Promise<Draft[]>} */
  async of(project) {
    const all = await done((await this.#table("readonly")).getAll());
    return all.filter((draft) => draft.project === project);
  }
}
