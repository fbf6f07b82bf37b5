/**
 * Strokes that the server has not confirmed, kept in the browser (IndexedDB) so that a closed or killed page loses none.
 *
 * @typedef {Object} Draft
 * @property {string} key project, picture and label
 * @property {string} project
 * @property {string} picture id
 * @property {string} name the picture's, and its size: ids alone may mean another picture after a restart
 * @property {number} width
 * @property {number} height
 * @property {number} label id
 * @property {number} version grows with every stroke
 * @property {number} count pixels that are on
 * @property {Blob} mask grey PNG, at the size it was painted in
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
  #base = null;

  /** @param {IDBTransactionMode} mode @returns {Promise<IDBObjectStore>} */
  async #table(mode) {
    if (!this.#base) {
      const opening = indexedDB.open(NAME, 1);
      opening.addEventListener("upgradeneeded", () => opening.result.createObjectStore(TABLE, { keyPath: "key" }));
      this.#base = done(opening);
    }
    return (await this.#base).transaction(TABLE, mode).objectStore(TABLE);
  }

  /** @param {Draft} draft replaces what was kept under its key */
  async put(draft) {
    await done((await this.#table("readwrite")).put(draft));
  }

  /** @param {string} key @param {number} version goes only if no later stroke was kept meanwhile */
  async remove(key, version) {
    const table = await this.#table("readwrite");
    const kept = await done(table.get(key));
    if (kept && kept.version <= version) await done(table.delete(key));
  }

  /** @param {string} project @returns {Promise<Draft[]>} */
  async of(project) {
    const all = await done((await this.#table("readonly")).getAll());
    return all.filter((draft) => draft.project === project);
  }
}
