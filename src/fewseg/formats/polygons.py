"""Between masks and polygons.

A polygon follows the edges of the pixels: pixel (x, y) is the square from (x, y) to (x + 1, y + 1), as COCO, YOLO and
labelme have it. Regions are 4-connected (two pixels that touch at a corner are two regions), holes are kept.

Simplified polygons stay within `tolerance` pixels of the mask's edge (Douglas and Peucker), keep their holes apart and
their outlines free of crossings, and change a region by at most `MAX_CHANGE` of its area: where more would go, the
tolerance shrinks for that region, down to the exact outline, which small regions therefore keep.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final, TypeAlias

import numpy as np
import shapely
from contourpy import FillType, contour_generator
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from shapely import MultiPolygon, Polygon

MAX_CHANGE: Final = 0.02
"""Share of a region's area that simplification may add and remove together."""

_CUT: Final = 0.36
"""Pixels by which a line between the middles of two edges cuts off the corner between them, at most (sqrt(1/8))."""
_LEAST: Final = 0.1
"""Below this tolerance the exact outline is the better choice."""
_MANY_HOLES: Final = 500
"""With more holes than this it pays to see first whether simplification can succeed."""
_MOST_WORK: Final = 1_500_000_000
"""Holes times corners that all rounds of simplification may look at together: some ten seconds."""

Ring: TypeAlias = NDArray[np.float64]
"""(n, 2) corners x, y in pixels; the last one is joined to the first."""


def regions(
    mask: NDArray[np.bool_], *, tolerance: float = 0.0, min_area: float = 0.0, corner: tuple[int, int] = (0, 0)
) -> list[Polygon]:
    """The connected regions of a mask (H, W) as polygons with holes, the largest first; none for an empty mask.

    Regions and holes smaller than `min_area` pixels are left out. `corner` is the place (x, y) in the image of a mask
    of a part of it. Besides what is found it needs 9 bytes for every
    pixel of the smallest box around the mask.
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    padded = np.zeros((rows[-1] - top + 3, columns[-1] - left + 3))
    padded[1:-1, 1:-1] = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    # At level 0.5 all corners are halfway between two pixels, which tells on which pixel edges the outline lies.
    generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    lines: Any = generator.filled(0.5, 2.0)
    points, offsets = lines
    found: list[Polygon] = []
    for middles, bounds in zip(points, offsets, strict=True):
        rings = [middles[a : b - 1] for a, b in pairwise(bounds)]
        found += _outlined(rings, tolerance, min_area)
    shift = (
        np.array([corner[0] + left, corner[1] + top]) - 0.5
    )  # to the corner of the first pixel from the centre of one outside
    placed = [shapely.transform(region, lambda corners: corners + shift) for region in found]
    return sorted(placed, key=lambda region: -region.area)


def _outlined(middles: Sequence[Ring], tolerance: float, min_area: float) -> list[Polygon]:
    """A region, simplified if that is allowed, from its outlines through the middles of pixel edges."""
    exact = [part for part in _valid([_pixel_corners(ring) for ring in middles]) if part.area >= min_area]
    if not exact:
        return []
    # Straight lines through the middles of the edges lie within `_CUT` of the exact outline, hold the same pixel
    # centres, and lean to neither side, so they are what is simplified.
    smooth = _without_specks(Polygon(middles[0], middles[1:]), min_area)
    kept = [_without_specks(part, min_area) for part in exact]
    simple = _simplified(smooth, MultiPolygon(kept), tolerance - _CUT)
    return kept if simple is None else [simple]


def _simplified(smooth: Polygon, exact: MultiPolygon, allowed: float) -> Polygon | None:
    """`smooth` simplified by as much as is allowed and changes it and the exact region little; None for not at all."""
    most = 1.5 * MAX_CHANGE * (1 + MAX_CHANGE) * smooth.area  # between two that one polygon is near enough to
    holes = len(smooth.interiors)
    if allowed > _LEAST and holes > _MANY_HOLES and smooth.symmetric_difference(exact).area > most:
        return None
    work = holes * int(shapely.get_num_coordinates(smooth))  # a round looks for every hole at every line
    left = _MOST_WORK
    while allowed > _LEAST and left >= work:
        simple = smooth.simplify(allowed, preserve_topology=True)
        if isinstance(simple, Polygon) and simple.is_valid:
            changed = simple.symmetric_difference(smooth).area
            if changed <= MAX_CHANGE / 2 * smooth.area:
                if simple.symmetric_difference(exact).area <= MAX_CHANGE * simple.area:
                    return simple
                if changed == 0:
                    return None  # nor would less simplification change anything
        allowed *= 0.7
        left -= work
    return None


def _pixel_corners(middles: Ring) -> Ring:
    """The corners of pixels that an outline turns at, from the middles (n, 2) of the pixel edges that it runs along.

    Two edges in a row share a corner: that between them, or where one lies across, the one that both lines hit.
    """
    following = np.roll(middles, -1, 0)
    lying = middles[:, 0] % 1 == 0  # a middle above or below a pixel centre: the edge runs along x
    turns = lying != np.roll(lying, -1)
    # Where the outline turns, x comes from the upright edge and y from the lying one.
    x = np.where(lying, following[:, 0], middles[:, 0])
    y = np.where(lying, middles[:, 1], following[:, 1])
    return np.stack([x, y], 1)[turns]


def _valid(rings: Sequence[Ring]) -> list[Polygon]:
    polygon = Polygon(rings[0], rings[1:])
    if polygon.is_valid:
        return [polygon]
    # Pixels of a hole that touch at a corner make its outline touch itself: they become holes of their own.
    repaired = shapely.make_valid(polygon, method="structure")
    return [part for part in shapely.get_parts(repaired) if isinstance(part, Polygon)]


def _without_specks(region: Polygon, min_area: float) -> Polygon:
    if min_area <= 0 or not region.interiors:
        return region
    return Polygon(region.exterior, [hole for hole in region.interiors if Polygon(hole).area >= min_area])


def one_ring(region: Polygon) -> Ring:
    """The region as a single outline, for formats without holes: cut open to every hole along a line of no width.

    Filled by any rule (even-odd or winding) it covers what the region covers; only what draws the outline itself also
    draws the cut.
    """
    rings = [_open(np.asarray(region.exterior.coords), clockwise=True)]
    if not region.interiors:
        return rings[0]
    # From the left: the nearest corner of what is joined so far is then never behind another hole's far side for long.
    rings += sorted(
        (_open(np.asarray(h.coords), clockwise=False) for h in region.interiors), key=lambda h: h[:, 0].min()
    )
    points, starts = np.concatenate(rings), np.cumsum([0, *map(len, rings)])
    return points[_joined(starts, *_nearest_before(points, starts))]


def _open(ring: Ring, *, clockwise: bool) -> Ring:
    ring = ring[:-1, :2]
    return ring if (signed_area(ring) > 0) == clockwise else ring[::-1]


def signed_area(ring: Ring) -> float:
    """Of an outline in pixels: positive where it runs clockwise on the screen (y pointing down)."""
    x, y = ring[:, 0], ring[:, 1]
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def _nearest_before(points: Ring, starts: NDArray[np.intp]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """For every corner the distance to the nearest one of all rings before its own, and where in `points` that is.

    Ring n is `points[starts[n]:starts[n + 1]]`; the distances of the first ring's corners are infinite.
    """
    distances, nearest = np.full(len(points), np.inf), np.zeros(len(points), np.intp)
    spans = [(0, len(starts) - 1)]
    while spans:  # the later half of a span's rings against the earlier half, then each half likewise
        first, last = spans.pop()
        if last - first < 2:
            continue
        middle = (first + last) // 2
        start, half, end = starts[[first, middle, last]]
        found, places = cKDTree(points[start:half]).query(points[half:end])
        closer = half + np.flatnonzero(found < distances[half:end])
        distances[closer], nearest[closer] = found[closer - half], start + places[closer - half]
        spans += [(first, middle), (middle, last)]
    return distances, nearest


def _joined(starts: NDArray[np.intp], distances: NDArray[np.float64], nearest: NDArray[np.intp]) -> list[int]:
    """The order of the corners in one outline, every ring cut open to those before it by the shortest cut."""
    count = int(starts[-1])
    corners = list(range(count))  # then the two ends of every cut a second time, for the way back
    after = list(range(1, count + 1))
    for start, end in pairwise(starts.tolist()):
        after[end - 1] = start
    for start, end in pairwise(starts[1:].tolist()):
        here = start + int(distances[start:end].argmin())
        there = int(nearest[here])
        back = len(corners)
        corners += [here, there]
        after += [back + 1, after[there]]
        after[here - 1 if here > start else end - 1] = back
        after[there] = here
    order, at = [0], after[0]
    while at:
        order.append(corners[at])
        at = after[at]
    return order
