"""Measures of a region: its convex hull, solidity, and how much of the image's border it takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

EIGHT: Final = np.ones((3, 3), np.bool_)
"""Pixels that touch at a corner are connected."""


def pieces(numbered: NDArray[Any]) -> Iterator[tuple[int, tuple[slice, slice], NDArray[np.bool_]]]:
    """Number, box and mask within the box of every region of a numbered map (H, W)."""
    for number, box in enumerate(ndimage.find_objects(numbered), 1):
        if box is not None:
            yield number, box, numbered[box] == number


def hull_of(mask: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Corners (n, 2) and area of the convex hull of a mask's pixels, which are squares of side 1."""
    rows = np.flatnonzero(mask.any(1))
    inside = mask[rows]
    left, right = inside.argmax(1), mask.shape[1] - inside[:, ::-1].argmax(1)
    corners = [np.stack([x, y], 1) for x in (left, right) for y in (rows, rows + 1)]
    return hull_of_points(np.concatenate(corners).astype(np.float64))


def hull_of_points(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Corners and area of the convex hull of points (n, 2), which are not all on one line."""
    hull = ConvexHull(points)
    return points[hull.vertices], float(hull.volume)


def solidity(mask: NDArray[np.bool_]) -> float:
    """Share of its convex hull that a mask covers, in (0, 1]."""
    return min(1.0, float(np.count_nonzero(mask)) / hull_of(mask)[1])


def border_share(mask: NDArray[np.bool_]) -> float:
    """Share of a side of the image along which a mask (H, W) runs, the largest of the four."""
    return max(float(side.mean()) for side in (mask[0], mask[-1], mask[:, 0], mask[:, -1]))


def is_net(mask: NDArray[np.bool_]) -> bool:
    """Whether the largest piece of a mask (H, W) is a net of lines: as long as many squares of its greatest width."""
    numbered, count = ndimage.label(mask, EIGHT)
    if not count:
        return False
    areas = np.bincount(numbered.ravel())[1:]
    largest = int(areas.argmax()) + 1
    crop = np.pad(numbered[ndimage.find_objects(numbered)[largest - 1]] == largest, 1)
    width = 2 * float(ndimage.distance_transform_edt(crop).max())
    return float(areas.max()) > _SQUARES * width**2


_SQUARES: Final = 18.0
