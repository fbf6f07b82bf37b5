"""The necks of a region: basins of its distance transform, joined one by one, the widest neck first.

The distance transform rises towards the middle of every convex part and has a saddle where two parts touch. Joining the
basins in the order of their necks (saddle over the lower of the two summits) makes a binary tree, whose cuts are ways
to divide the region; `fewseg.inference.objects.separate` chooses one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewseg.inference.objects.regions import EIGHT

_SMOOTHING: Final = 0.7
"""Standard deviation, in pixels, of the Gaussian that takes the steps of pixels from the distance transform."""
_PART: Final = 0.15
"""Share of a region that each of two parts has for the neck between them to count."""
_SIDES: Final = (
    (np.s_[:, :-1], np.s_[:, 1:]),
    (np.s_[:-1, :], np.s_[1:, :]),
    (np.s_[:-1, :-1], np.s_[1:, 1:]),
    (np.s_[:-1, 1:], np.s_[1:, :-1]),
)
"""Pairs of neighbouring pixels: beside, below, and the two diagonals."""


@dataclass(frozen=True)
class Join:
    """Two parts that are joined; basins are numbered from 1, joined parts further on, in order."""

    first: int
    second: int
    neck: float
    """Of the saddle between them, relative to the lower of their summits; in (0, 1]."""


def basins_of(region: NDArray[np.bool_]) -> tuple[NDArray[np.int32], list[Join]]:
    """The basins (h, w), numbered from 1, of a connected region, and how they are joined to a single one."""
    from skimage.segmentation import watershed  # takes a while to import, and labels of one convex object never need it

    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    depth = ndimage.gaussian_filter(depth, _SMOOTHING) * region
    summits, count = ndimage.label((depth == ndimage.maximum_filter(depth, 3)) & region, EIGHT)
    if count < 2:
        return region.astype(np.int32), []
    basins = watershed(-depth, summits, mask=region, connectivity=2).astype(np.int32)
    heights = np.atleast_1d(ndimage.maximum(depth, basins, np.arange(1, count + 1)))
    return basins, list(_joins(dict(enumerate(heights.tolist(), 1)), _saddles(basins, depth)))


def _saddles(basins: NDArray[np.int32], depth: NDArray[np.float64]) -> dict[tuple[int, int], float]:
    """The greatest depth at which each two neighbouring basins touch."""
    found: list[NDArray[np.float64]] = []
    for here, there in _SIDES:
        one, other = basins[here], basins[there]
        touch = (one != other) & (one > 0) & (other > 0)
        a, b = one[touch], other[touch]
        found.append(np.stack([np.minimum(a, b), np.maximum(a, b), np.minimum(depth[here], depth[there])[touch]], 1))
    rows = np.concatenate(found)
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    return {(int(a), int(b)): float(height) for a, b, height in rows}  # of each two the last, which is the greatest


def _joins(summits: dict[int, float], saddles: dict[tuple[int, int], float]) -> Iterator[Join]:
    """The widest neck first; of equals, the one between lower numbers."""
    beside: dict[int, dict[int, float]] = {number: {} for number in summits}
    for (a, b), height in saddles.items():
        beside[a][b] = beside[b][a] = height
    necks = [(-height / min(summits[a], summits[b]), (a, b)) for (a, b), height in saddles.items()]
    heapify(necks)
    joined = len(summits) + 1
    while necks:
        neck, (a, b) = heappop(necks)
        if a not in beside or b not in beside:  # it has been joined to another meanwhile
            continue
        yield Join(a, b, min(1.0, -neck))
        summits[joined] = max(summits[a], summits[b])
        around: dict[int, float] = {}
        for part in (a, b):
            for other, height in beside.pop(part).items():
                if other not in (a, b):
                    around[other] = max(height, around.get(other, 0.0))
                    del beside[other][part]
        beside[joined] = around
        for other, height in around.items():
            beside[other][joined] = height
            heappush(necks, (-height / min(summits[other], summits[joined]), (other, joined)))
        joined += 1


def narrowest_neck(region: NDArray[np.bool_]) -> float:
    """The narrowest neck in a region that has a fair part of it on both sides; 1 without any."""
    basins, joins = basins_of(region)
    areas = np.bincount(basins.ravel()).tolist()
    least, narrowest = _PART * sum(areas[1:]), 1.0
    for join in joins:
        first, second = areas[join.first], areas[join.second]
        areas.append(first + second)
        if min(first, second) >= least:
            narrowest = min(narrowest, join.neck)
    return narrowest
