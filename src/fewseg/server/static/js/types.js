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
 *
 * @typedef {Object} Label
 * @property {number} id
 * @property {string} name
 * @property {string} colour
 * @property {number} shots images that are examples of it
 * @property {number} presence_threshold score from which it is shown
 * @property {number} mask_threshold probability from which a pixel belongs to it
 * @property {boolean} own_thresholds whether a person has set one of them
 * @property {Adaptation|null} adaptation
 *
 * @typedef {Object} ImageEntry
 * @property {string} id
 * @property {string} name
 * @property {number} width pixels, after EXIF rotation
 * @property {number} height
 * @property {"waiting"|"working"|"done"|"failed"|"untaught"} state
 * @property {string|null} error one line, when it failed
 * @property {number[]} supports labels that it is an example of
 * @property {number[]} confirmed labels whose mask a person has confirmed
 * @property {number[]} absent labels that a person said are not in it
 * @property {Record<string, number>} scores label id to 0..1
 * @property {Record<string, boolean>} present label id to whether the label is probably present
 * @property {Record<string, number>} confidences label id to the expected IoU of its predicted mask
 * @property {number|null} confidence the least of these among labels that are present
 * @property {Record<string, number>} areas label id to the share of the image that its mask covers
 * @property {Record<string, number>} masks label id to the mask's revision
 * @property {boolean} checked a person has decided about every mask that is shown
 *
 * @typedef {{done: number, total: number, seconds_left: number|null}} Progress
 *
 * @typedef {Object} Project
 * @property {number} revision
 * @property {Label[]} labels
 * @property {boolean} exclusive whether a pixel has one label at most
 * @property {ImageEntry[]} pictures
 * @property {Progress} progress
 * @property {boolean} can_undo
 * @property {string|null} undo_text
 * @property {boolean} can_redo
 * @property {string[]} notices messages about the project's files
 *
 * @typedef {{version: string, model: string, image_size: number, folder: string|null, project: string|null, limits: Object}} Info
 * @typedef {{id: string, score: number, reason: string}} Suggestion
 * @typedef {"all"|"open"|"checked"|"labelled"|"uncertain"|"possible"|"absent"|"failed"} Filter
 * @typedef {{x: number, y: number}} Point image pixels, or CSS pixels of the stage where noted
 */
export {};
