/** Pieces of a mask: connected pixels, holes and outlines. Masks are arrays of 0 and 1, row by row. */

/** @typedef {import("./types.js").Point} Point */

/** Marks the connected pixels of one value, from a pixel on. @param {Uint8Array} mask @param {number} width @param {number} start index @returns {Uint8Array} */
export function pieceAt(mask, width, start) {
  const value = mask[start];
  const piece = new Uint8Array(mask.length);
  const open = [start];
  piece[start] = 1;
  while (open.length) {
    const at = /** @type {number} */ (open.pop());
    const x = at % width;
    for (const next of [x > 0 ? at - 1 : -1, x < width - 1 ? at + 1 : -1, at - width, at + width]) {
      if (next < 0 || next >= mask.length || piece[next] || mask[next] !== value) continue;
      piece[next] = 1;
      open.push(next);
    }
  }
  return piece;
}

/** Fills every hole: background that does not reach the border. @param {Uint8Array} mask @param {number} width */
export function fillHoles(mask, width) {
  const height = mask.length / width;
  const outside = new Uint8Array(mask.length);
  for (let at = 0; at < mask.length; at++) {
    const x = at % width;
    const border = x === 0 || x === width - 1 || at < width || at >= width * (height - 1);
    if (border && !mask[at] && !outside[at]) pieceAt(mask, width, at).forEach((inside, i) => inside && (outside[i] = 1));
  }
  for (let at = 0; at < mask.length; at++) mask[at] = outside[at] ? 0 : 1;
}

/** Removes the piece at a pixel, or fills the hole there. @param {Uint8Array} mask @param {number} width @param {number} at index */
export function togglePiece(mask, width, at) {
  const piece = pieceAt(mask, width, at);
  if (mask[at]) return void piece.forEach((inside, i) => inside && (mask[i] = 0));
  const bottom = mask.length - width;
  const reaches = piece.some((inside, i) => inside && (i < width || i >= bottom || i % width === 0 || i % width === width - 1));
  if (!reaches) piece.forEach((inside, i) => inside && (mask[i] = 1));
}

/** The outer boundary of a piece, along the edges of its pixels. @param {Uint8Array} piece @param {number} width @returns {Point[]} corners */
export function outlineOf(piece, width) {
  const height = piece.length / width;
  const start = piece.indexOf(1);
  if (start < 0) return [];
  const inside = (/** @type {number} */ x, /** @type {number} */ y) => x >= 0 && y >= 0 && x < width && y < height && piece[y * width + x] === 1;
  const steps = [[1, 0], [0, 1], [-1, 0], [0, -1]]; // right, down, left, up; the piece lies to the right hand
  const right = [[0, 0], [-1, 0], [-1, -1], [0, -1]]; // the pixel at the right hand of each step, from the corner on
  const left = [[0, -1], [0, 0], [-1, 0], [-1, -1]];
  let [x, y, way] = [start % width, Math.floor(start / width), 0];
  const [x0, y0] = [x, y];
  /** @type {Point[]} */
  const corners = [];
  for (let i = 0; i < 4 * piece.length + 4; i++) {
    corners.push({ x, y });
    x += steps[way][0];
    y += steps[way][1];
    if (x === x0 && y === y0) break;
    if (inside(x + left[way][0], y + left[way][1])) way = (way + 3) % 4;
    else if (!inside(x + right[way][0], y + right[way][1])) way = (way + 1) % 4;
  }
  return corners;
}

/** Corners without those that lie nearer than `reach` to the line of their neighbours (Douglas and Peucker, 1973). @param {Point[]} corners @param {number} reach @returns {Point[]} */
export function simplified(corners, reach) {
  if (corners.length < 4) return corners;
  const keep = new Uint8Array(corners.length);
  const half = Math.floor(corners.length / 2);
  keep[0] = keep[half] = 1;
  const closed = [...corners, corners[0]];
  const open = [[0, half], [half, corners.length]];
  while (open.length) {
    const [from, to] = /** @type {number[]} */ (open.pop());
    let [far, at] = [reach, -1];
    for (let i = from + 1; i < to; i++) {
      const distance = distanceTo(closed[i], closed[from], closed[to]);
      if (distance > far) [far, at] = [distance, i];
    }
    if (at < 0) continue;
    keep[at] = 1;
    open.push([from, at], [at, to]);
  }
  return corners.filter((_, i) => keep[i]);
}

/** The distance of a point to the line between two others. @param {Point} point @param {Point} a @param {Point} b */
export function distanceTo(point, a, b) {
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const length = dx * dx + dy * dy;
  const along = length ? Math.min(1, Math.max(0, ((point.x - a.x) * dx + (point.y - a.y) * dy) / length)) : 0;
  return Math.hypot(point.x - a.x - along * dx, point.y - a.y - along * dy);
}
