/**
 * The shapes that the server sends, and the few that modules share. Types only.
 *
 * @typedef {{id: number, name: string, colour: string, shots: number}} Label
 *
 * @typedef {Object} Picture
 * @property {string} id
 * @property {string} name
 * @property {number} width pixels, after EXIF rotation
 * @property {number} height
 * @property {"waiting"|"working"|"done"|"failed"|"untaught"} state
 * @property {string|null} error one line, when it failed
 * @property {number[]} supports labels that were painted here by hand
 * @property {Record<string, number>} scores label id to 0..1
 * @property {Record<string, boolean>} present label id to whether the label is probably in the picture
 * @property {number|null} confidence 0..1
 * @property {Record<string, number>} masks label id to the mask's revision
 * @property {boolean} checked somebody found the masks right
 *
 * @typedef {{done: number, total: number, seconds_left: number|null}} Progress
 *
 * @typedef {Object} Project
 * @property {number} revision
 * @property {Label[]} labels
 * @property {Picture[]} pictures
 * @property {Progress} progress
 * @property {boolean} can_undo
 * @property {string|null} undo_text
 * @property {boolean} can_redo
 * @property {string[]} notices what a person should know of the project's files
 *
 * @typedef {{version: string, model: string, image_size: number, folder: string|null, project: string|null, limits: Object}} Info
 * @typedef {{id: string, score: number, reason: string}} Suggestion
 * @typedef {"all"|"labelled"|"unsure"|"absent"|"failed"} Filter
 * @typedef {{x: number, y: number}} Point picture pixels, or CSS pixels of the stage where said so
 */
export {};
