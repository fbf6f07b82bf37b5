"""Masks of the shapes that other tools draw: polygons, ellipses, small masks at a place."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from fewseg.core.errors import InvalidSupport, one_line
from fewseg.images.decode import MAX_PIXELS, decode

_CORNERS = 180


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
    rings = [_within_reach(corners(polygon, where), size, where) for polygon in polygons]
    rings = [ring for ring in rings if len(ring) >= 6]
    if not rings:
        return np.zeros((height, width), np.bool_)
    mask: NDArray[np.bool_] = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, height, width))) > 0
    return mask


def corners(polygon: Any, where: str) -> NDArray[np.float64]:
    """A polygon's corners (n, 2), of a list of numbers or of pairs; raises `InvalidSupport`."""
    try:
        values = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSupport(f"{where} has a polygon that is not a list of numbers: {polygon!r:.60}") from None
    if values.size % 2:
        raise InvalidSupport(f"{where} has a polygon of {values.size} numbers: expected pairs x, y")
    return values.reshape(-1, 2)


def _within_reach(points: NDArray[np.float64], size: tuple[int, int], where: str) -> list[float]:
    """The corners as a list of numbers; far-away corners would take all memory in what fills it."""
    if not (np.isfinite(points).all() and np.abs(points).max(initial=0) <= 4 * max(size) + 100):
        raise InvalidSupport(
            f"{where} has a polygon far outside its image of {size[0]}x{size[1]}: expected pixels of that image"
        )
    numbers: list[float] = points.reshape(-1).tolist()
    return numbers


def turned_box(
    left: float, top: float, width: float, height: float, degrees: float, pivot: tuple[float, float]
) -> NDArray[np.float64]:
    """The corners (4, 2) of a box, turned clockwise about a point."""
    points = np.array([(left, top), (left + width, top), (left + width, top + height), (left, top + height)], float)
    return _turned(points, degrees, pivot)


def fill_ellipse(
    centre: Sequence[float], radii: Sequence[float], size: tuple[int, int], where: str, *, degrees: float = 0.0
) -> NDArray[np.bool_]:
    """The ellipse around a centre with radii along x and y, turned clockwise about its centre."""
    (cx, cy), (rx, ry) = centre, radii
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    points = np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], 1)
    return fill_polygons([_turned(points, degrees, (cx, cy))], size, where)


def _turned(points: NDArray[np.float64], degrees: float, pivot: tuple[float, float]) -> NDArray[np.float64]:
    if not degrees:
        return points
    angle = math.radians(degrees)
    across, down = (points - pivot).T
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.stack([across * cosine - down * sine, across * sine + down * cosine], 1) + pivot


def png_mask(data: bytes, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """What an image within an annotation marks, (H, W): where it is opaque if it has an alpha channel, or else not 0.

    It may be little larger than the image of `size` (width, height) that it is for. Raises `InvalidSupport`.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width > size[0] + 2 or image.height > size[1] + 2:
                raise InvalidSupport(
                    f"{where} has a mask of {image.width}x{image.height}, outside its image of {size[0]}x{size[1]}"
                )
            drawn = decode(image, where, InvalidSupport)
            alpha = drawn.convert("RGBA").getchannel("A") if drawn.has_transparency_data else drawn.convert("L")
            return np.asarray(alpha) > (127 if drawn.has_transparency_data else 0)
    except (ValueError, TypeError, OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise InvalidSupport(f"{where} has a damaged mask ({one_line(error):.200}): save it again") from error


def place_mask(
    part: NDArray[np.bool_], corner: tuple[int, int], size: tuple[int, int], where: str, *, beyond: int = 1
) -> NDArray[np.bool_]:
    """The mask (H, W) with `part` at its left upper corner (x, y).

    Up to `beyond` rows and columns outside the image are cut off; raises `InvalidSupport` for more.
    """
    (left, top), (width, height), (rows, columns) = corner, size, part.shape
    if min(left, top) < -beyond or left + columns > width + beyond or top + rows > height + beyond:
        raise InvalidSupport(f"{where} is {columns}x{rows} at ({left}, {top}), outside its image of {width}x{height}")
    mask = np.zeros((height, width), np.bool_)
    x, y = max(left, 0), max(top, 0)
    inside = part[y - top : height - top, x - left : width - left]
    mask[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return mask
