"""Masks to Label Studio's regions, and back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fewseg.core.errors import InvalidMask
from fewseg.core.types import Prediction
from fewseg.formats import brush_rle
from fewseg.formats.polygons import one_ring, regions
from fewseg.server.label_studio.config import KINDS, MaskTag

_TOLERANCE: Final = 1.0
"""Pixels by which polygons may leave the mask's edge."""
_SPECK: Final = 4.0
"""Least area of a polygon, in pixels."""


def results_of(prediction: Prediction, tags: Sequence[MaskTag]) -> list[dict[str, Any]]:
    """The regions of all present labels, each for the first tag that offers its label."""
    made: list[dict[str, Any]] = []
    for label in prediction.labels:
        tag = next((tag for tag in tags if tag.knows(label)), None)
        if tag is not None and prediction.present[label] and prediction.masks[label].any():
            values = (
                _brush(prediction.masks[label]) if tag.kind == "brushlabels" else _polygons(prediction.masks[label])
            )
            made += [_region(tag, label, prediction, value) for value in values]
    return made


def _region(tag: MaskTag, label: str, prediction: Prediction, value: dict[str, Any]) -> dict[str, Any]:
    height, width = prediction.label_map.shape
    return {
        "id": uuid.uuid4().hex[:10],
        "from_name": tag.name,
        "to_name": tag.image,
        "type": tag.kind,
        "origin": "prediction",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(prediction.scores[label], 4),
        "value": {**value, tag.kind: [label]},
    }


def _brush(mask: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    yield {"format": "rle", "rle": brush_rle.encode(mask)}


def _polygons(mask: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """Each region's outline, in per cent of the image; a hole is cut open, for these polygons have none."""
    height, width = mask.shape
    for region in regions(mask, tolerance=_TOLERANCE, min_area=_SPECK):
        points = one_ring(region) * (100 / width, 100 / height)
        yield {"points": [[round(float(x), 4), round(float(y), 4)] for x, y in points], "closed": True}


def masks_of(result: Any, tags: Sequence[MaskTag], max_pixels: int) -> dict[str, NDArray[np.bool_]]:
    """Label to mask (H, W), the union of its regions in an annotation; regions of other kinds are ignored.

    Raises `InvalidMask` for a region that cannot be read, or regions of images of different sizes.
    """
    known = {(tag.name, tag.kind): tag for tag in tags}
    masks: dict[str, NDArray[np.bool_]] = {}
    for region in result if isinstance(result, list) else []:
        if not isinstance(region, Mapping) or (region.get("from_name"), region.get("type")) not in known:
            continue
        tag = known[region["from_name"], region["type"]]
        mask = _mask(region, tag, max_pixels)
        value = region["value"]
        for label in value.get(tag.kind) or []:
            if not isinstance(label, str) or not tag.knows(label):
                continue
            if label in masks and masks[label].shape != mask.shape:
                raise InvalidMask(f"regions of {label!r} have images of different sizes: annotate one image a task")
            masks[label] = masks[label] | mask if label in masks else mask
    return {label: mask for label, mask in masks.items() if mask.any()}


def _mask(region: Mapping[str, Any], tag: MaskTag, max_pixels: int) -> NDArray[np.bool_]:
    value = region.get("value")
    width, height = region.get("original_width"), region.get("original_height")
    if not isinstance(value, Mapping) or not isinstance(width, int) or not isinstance(height, int):
        raise InvalidMask(f"a region of {tag.name!r} has no value or size: save the annotation again")
    if not 0 < width * height <= max_pixels or width < 1:
        raise InvalidMask(f"a region of {tag.name!r} is of an image of {width}x{height}: send 1 to {max_pixels} pixels")
    if KINDS[tag.kind] == "rle":
        return brush_rle.decode(value.get("rle") or [], (width, height))
    return _filled(value.get("points"), (width, height))


def _filled(points: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        corners = [(float(x) / 100 * size[0], float(y) / 100 * size[1]) for x, y in points]
    except (TypeError, ValueError):
        corners = []
    if len(corners) < 3 or not np.isfinite(corners).all() or np.abs(corners).max() > 10 * max(size):
        raise InvalidMask("a polygon needs three or more points in per cent of the image")
    image = Image.new("1", size)
    # Corners are edges of pixels there and centres of pixels here.
    ImageDraw.Draw(image).polygon([(x - 0.5, y - 0.5) for x, y in corners], fill=1)
    return np.asarray(image)
