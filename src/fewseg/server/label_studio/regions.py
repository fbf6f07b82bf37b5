"""Masks to Label Studio's regions, and back."""

from __future__ import annotations

import base64
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidMask
from fewseg.core.types import Prediction
from fewseg.formats import brush_rle
from fewseg.formats.label_studio import region_kind, region_mask
from fewseg.formats.polygons import one_ring, regions
from fewseg.images.encode import encode
from fewseg.server.label_studio.config import KINDS, MaskTag

_TOLERANCE: Final = 1.0
"""Pixels by which polygons may leave the mask's edge."""
_SPECK: Final = 4.0
"""Least area of a polygon, in pixels."""
_MOST_OBJECTS: Final = 300
"""More regions than this are slow to work with in Label Studio: the label stays one region then."""
_PLACES: Final = {"points", "rle", "imageDataURL", "x", "vertices", "sequence"}
"""Keys of a value that has a place in the image."""


def results_of(prediction: Prediction, tags: Sequence[MaskTag]) -> list[dict[str, Any]]:
    """The regions of all present labels, each for the first tag that offers its label.

    Single objects become a region each, with a score of its own; labels of stuff one region.
    """
    made: list[dict[str, Any]] = []
    for label in prediction.labels:
        tag = next((tag for tag in tags if tag.knows(label)), None)
        if tag is not None and prediction.present[label] and prediction.masks[label].any():
            for mask, score in _parts(label, prediction):
                made += [_region(tag, label, score, mask, value) for value in _WRITERS[tag.kind](mask)]
    return made


def _parts(label: str, prediction: Prediction) -> Iterator[tuple[NDArray[np.bool_], float]]:
    """Mask and score of each single object of a label; of the label where there is one, or too many."""
    objects = prediction.objects.get(label, ())
    if not 1 < len(objects) <= _MOST_OBJECTS:
        yield prediction.masks[label], prediction.scores[label]
        return
    yield from ((one.mask, one.score) for one in objects)


def _region(tag: MaskTag, label: str, score: float, mask: NDArray[np.bool_], value: dict[str, Any]) -> dict[str, Any]:
    height, width = mask.shape
    return {
        "id": uuid.uuid4().hex[:10],
        "from_name": tag.name,
        "to_name": tag.image,
        "type": tag.kind,
        "origin": "prediction",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "score": round(score, 4),
        "value": {**value, tag.kind: [label]},
    }


def _brush(mask: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    yield {"format": "rle", "rle": brush_rle.encode(mask)}


def _bitmask(mask: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """A PNG that is black and opaque where the mask is."""
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[..., 3] = mask * 255
    content = base64.b64encode(encode(Image.fromarray(pixels), "PNG")).decode()
    yield {"format": "mask", "imageDataURL": f"data:image/png;base64,{content}"}


def _polygons(mask: NDArray[np.bool_]) -> Iterator[dict[str, Any]]:
    """Each region's outline, in per cent of the image; a hole is cut open, for these polygons have none."""
    height, width = mask.shape
    for region in regions(mask, tolerance=_TOLERANCE, min_area=_SPECK):
        points = one_ring(region) * (100 / width, 100 / height)
        yield {"points": [[round(float(x), 4), round(float(y), 4)] for x, y in points], "closed": True}


_WRITERS: Final = {"brushlabels": _brush, "bitmasklabels": _bitmask, "polygonlabels": _polygons}


def masks_of(
    result: Any, tags: Sequence[MaskTag], max_pixels: int
) -> tuple[dict[str, NDArray[np.bool_]], dict[str, int]]:
    """Label to mask (H, W), the union of its regions in an annotation, and the number of regions left out by kind.

    `image_rotation` changes nothing: it turns the editor's view, not the coordinates. Raises `InvalidSupport` or
    `InvalidMask` for a region that cannot be read, or regions of images of different sizes.
    """
    known = {(tag.name, tag.kind): tag for tag in tags}
    masks: dict[str, NDArray[np.bool_]] = {}
    left_out: Counter[str] = Counter()
    for region in result if isinstance(result, list) else []:
        if not isinstance(region, Mapping):
            continue
        value, tag = region.get("value"), known.get((str(region.get("from_name")), str(region.get("type"))))
        if tag is None or not isinstance(value, Mapping) or not _labels(value, tag) or value.get("closed") is False:
            left_out.update(_kind_left_out(region, value, tag))
            continue
        mask = _mask(region, value, tag, max_pixels)
        for label in _labels(value, tag):
            if label in masks and masks[label].shape != mask.shape:
                raise InvalidMask(f"regions of {label!r} have images of different sizes: annotate one image a task")
            masks[label] = masks[label] | mask if label in masks else mask
    return {label: mask for label, mask in masks.items() if mask.any()}, dict(left_out)


def _kind_left_out(region: Mapping[str, Any], value: Any, tag: MaskTag | None) -> list[str]:
    """The kind of a region that does not teach; nothing for choices, texts, ratings and the like."""
    if not isinstance(value, Mapping):
        return ["regions without a value"] if tag is not None else []
    if tag is None:
        return [" ".join(str(region.get("type"))[:30].split())] if _PLACES & value.keys() else []
    return ["open polygons" if value.get("closed") is False else "regions without a label of the configuration"]


def _labels(value: Mapping[str, Any], tag: MaskTag) -> list[str]:
    given = value.get(tag.kind)
    return [label for label in given if isinstance(label, str) and tag.knows(label)] if isinstance(given, list) else []


def _mask(region: Mapping[str, Any], value: Mapping[str, Any], tag: MaskTag, max_pixels: int) -> NDArray[np.bool_]:
    width, height, where = region.get("original_width"), region.get("original_height"), f"a region of {tag.name!r}"
    if not isinstance(width, int) or not isinstance(height, int):
        raise InvalidMask(f"{where} has no size: save the annotation again")
    if not 0 < width * height <= max_pixels or width < 1:
        raise InvalidMask(f"{where} is of an image of {width}x{height}: send 1 to {max_pixels} pixels")
    if region_kind(value) != KINDS[tag.kind]:
        raise InvalidMask(f"{where} has no {KINDS[tag.kind]}: save the annotation again")
    return region_mask(value, KINDS[tag.kind], where, (width, height))
