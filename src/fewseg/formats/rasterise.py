"""Masks of the shapes that other tools draw: polygons and circles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from fewseg.core.errors import InvalidSupport
from fewseg.images.decode import MAX_PIXELS

_CIRCLE_CORNERS = 180


def check_size(size: Any, where: str) -> tuple[int, int]:
    """(width, height) if it is one; raises `InvalidSupport`."""
    try:
        width, height = (int(value) for value in size)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSupport(f"{where} has the size {size!r:.60}: expected a width and a height") from None
    if not (width > 0 and height > 0 and width * height <= MAX_PIXELS):
        raise InvalidSupport(f"{where} is {width}x{height}: expected at least one pixel and at most {MAX_PIXELS}")
    return width, height


def fill_polygons(polygons: Sequence[Any], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The mask (H, W) that the polygons, lists of x, y, x, y ... in pixels, cover together, by COCO's own rule."""
    width, height = size
    rings = [_checked(polygon, size, where) for polygon in polygons]
    rings = [ring for ring in rings if len(ring) >= 6]
    if not rings:
        return np.zeros((height, width), np.bool_)
    mask: NDArray[np.bool_] = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, height, width))) > 0
    return mask


def _checked(polygon: Any, size: tuple[int, int], where: str) -> list[float]:
    """The polygon as numbers; far-away corners would take all memory in what fills it."""
    try:
        values = np.asarray(polygon, np.float64).reshape(-1)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSupport(f"{where} has a polygon that is not a list of numbers: {polygon!r:.60}") from None
    if len(values) % 2:
        raise InvalidSupport(f"{where} has a polygon of {len(values)} numbers: expected pairs x, y")
    if not (np.isfinite(values).all() and np.abs(values).max(initial=0) <= 4 * max(size) + 100):
        raise InvalidSupport(
            f"{where} has a polygon far outside its image of {size[0]}x{size[1]}: expected pixels of that image"
        )
    numbers: list[float] = values.tolist()
    return numbers


def fill_circle(centre: Sequence[float], edge: Sequence[float], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The disc around a centre with a point on its edge, both (x, y)."""
    (cx, cy), (ex, ey) = centre, edge
    radius = math.hypot(ex - cx, ey - cy)
    angles = np.linspace(0, 2 * np.pi, _CIRCLE_CORNERS, endpoint=False)
    corners = np.stack([cx + radius * np.cos(angles), cy + radius * np.sin(angles)], 1)
    return fill_polygons([corners], size, where)
