/** The quality to expect of a label's masks, measured on its examples when it was adapted to them. */

import { h } from "./dom.js";

/** @typedef {import("./types.js").Label} Label */

/** @param {number} value @returns {string} */
const two = (value) => value.toFixed(2);

/** The IoU to expect, or how far the fit is. @param {Label} label @returns {string} empty where nothing is known */
function text({ adaptation }) {
  if (!adaptation) return "";
  const { state, report } = adaptation;
  if (!report) return state === "working" ? "adapting …" : "adapts soon";
  const before = report.adapted ? `${two(report.iou_before)} → ` : "";
  return `expected IoU ${before}${two(report.expected_iou)} ± ${two(report.spread)}${state === "done" ? "" : " …"}`;
}

/** What the numbers mean. @param {Label} label @returns {string} */
function explanation({ name, shots, adaptation }) {
  if (!adaptation) return "";
  const { state, report } = adaptation;
  const next = state === "working" ? `“${name}” is being adapted to its ${shots} examples.` : `“${name}” is adapted to its ${shots} examples once your hand rests.`;
  if (!report) return `${next} Its masks improve then, where that helps.`;
  const how = `Each of ${report.examples} examples, segmented by what was learnt from the others:`;
  const gain = report.adapted
    ? `${how} mean IoU ${two(report.iou_before)} as taught → ${two(report.iou_after)} adapted.`
    : `${how} mean IoU ${two(report.iou_before)}; adapting would not improve it.`;
  const meaning = `Expect ${two(report.expected_iou)} ± ${two(report.spread)} (95 %) in images like the examples; it says nothing of others.`;
  const older = "Until then masks come from all examples and what was fitted to the earlier ones.";
  return state === "done" ? `${gain} ${meaning}` : `${gain} ${meaning} ${next} ${older}`;
}

/** @param {Label} label @returns {HTMLElement|null} a short text with its explanation, where anything is known */
export function quality(label) {
  const short = text(label);
  return short ? h("span", { class: "quality", title: explanation(label) }, short) : null;
}
