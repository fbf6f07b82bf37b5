/**
 * Types of the server's responses and those that several modules share.
 *
 * @typedef {Object} AdaptationReport what fitting a label to its own examples brought
 * @property {number} examples
 * @property {boolean} adapted
 * @property {number} iou_before
 * @property {number} iou_after
 * @property {number} expected_iou
 * @property {number} spread
 *
 * @typedef {{state: "waiting"|"working"|"done", report: AdaptationReport|null}} Adaptation
 * @typedef {{id: number, name: string, colour: string, shots: number, adaptation: Adaptation|null}} Label
 *
 * @typedef {Object} ImageEntry
 * @property {string} id
 * @property {string} name
 * @property {number} width pixels, after EXIF rotation
 * @property {number} height
 * @property {"waiting"|"working"|"done"|"failed"|"untaught"} state
 * @property {string|null} error one line, when it failed
 * @property {number[]} supports labels with a hand-made mask
 * @property {Record<string, number>} scores label id to 0..1
 * @property {Record<string, boolean>} present label id to whether the label is probably present
 * @property {number|null} confidence 0..1
 * @property {Record<string, number>} masks label id to the mask's revision
 * @property {boolean} checked a person has confirmed the masks
 *
 * @typedef {{done: number, total: number, seconds_left: number|null}} Progress
 *
 * @typedef {Object} Project
 * @property {number} revision
 * @property {Label[]} labels
 * @property {ImageEntry[]} pictures
 * @property {Progress} progress
 * @property {boolean} can_undo
 * @property {string|null} undo_text
 * @property {boolean} can_redo
 * @property {string[]} notices messages about the project's files
 *
 * @typedef {{version: string, model: string, image_size: number, folder: string|null, project: string|null, limits: Object}} Info
 * @typedef {{id: string, score: number, reason: string}} Suggestion
 * @typedef {"all"|"labelled"|"uncertain"|"absent"|"failed"} Filter
 * @typedef {{x: number, y: number}} Point image pixels, or CSS pixels of the stage where noted
 */
export {};
