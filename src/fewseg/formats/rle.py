"""COCO's run lengths: encoding masks, and decoding what other tools wrote."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from shapely import Polygon

from fewseg.core.errors import InvalidSupport
from fewseg.core.objects import DetectedObject
from fewseg.formats.polygons import one_ring, regions

_DIGITS: Final = 9
"""More characters than a compressed run length has."""


def rle_of_object(one: DetectedObject) -> dict[str, Any]:
    """The run lengths of one object in its image, from its box alone."""
    height, width = one.instance_map.shape
    return rle_of_regions(regions(one.crop, corner=one.box[:2]), (width, height))


def rle_entry(rle: dict[str, Any]) -> tuple[dict[str, Any], float, list[float]]:
    """Compressed run lengths as JSON has them, their area, and their box (x, y, width, height)."""
    box = [float(value) for value in coco_mask.toBbox(rle)]
    counts = rle["counts"]
    text = counts.decode("ascii") if isinstance(counts, bytes) else counts
    return {"size": [int(v) for v in rle["size"]], "counts": text}, float(coco_mask.area(rle)), box


def rle_of_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask (H, W)."""
    rle: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    return rle


def rle_of_regions(group: list[Polygon], size: tuple[int, int]) -> dict[str, Any]:
    """COCO's compressed run lengths of regions in an image of `size` (width, height); exact for exact regions."""
    width, height = size
    rle: dict[str, Any] = coco_mask.merge(
        coco_mask.frPyObjects([one_ring(region).ravel().tolist() for region in group], height, width)
    )
    return rle


def mask_of_rle(rle: Any, size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """The mask (H, W) of run lengths, compressed (text) or not (numbers), for an image of `size` (width, height).

    Raises `InvalidSupport`, which begins with `where`, for damaged run lengths.
    """
    width, height = size
    try:
        said = [int(value) for value in rle["size"]]
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError):
        raise InvalidSupport(f"{where} has run lengths without size or counts: {rle!r:.60}") from None
    if said != [height, width]:
        raise InvalidSupport(
            f"{where} has run lengths for {' x '.join(map(str, said[::-1]))} pixels, its image has {width} x {height}"
        )
    pixels = width * height
    # pycocotools and numpy would trust what they are given: every run is compared with the image before anything is
    # allocated, as numbers without limit, for sums of 64 bits wrap around.
    if (
        not isinstance(counts, (str, list))
        or len(counts) > (_DIGITS if isinstance(counts, str) else 1) * (pixels + 2) * 2
    ):
        raise InvalidSupport(f"{where} has damaged run lengths: {counts!r:.60}")
    try:
        runs = _runs(counts) if isinstance(counts, str) else counts
        whole = [run if isinstance(run, int) else _whole(run) for run in runs]
    except (TypeError, ValueError, OverflowError, IndexError):
        raise InvalidSupport(f"{where} has damaged run lengths: {counts!r:.60}") from None
    if any(not 0 <= run <= pixels for run in whole) or sum(whole) != pixels:
        raise InvalidSupport(f"{where} has run lengths that do not add up to {width}x{height} pixels")
    drawn = np.arange(len(whole)) % 2 == 1
    return np.repeat(drawn, np.asarray(whole, np.int64)).reshape(width, height).T


def _whole(run: Any) -> int:
    """A run that is written as 5.0; raises `ValueError` for what is no whole number."""
    if not isinstance(run, float) or not run.is_integer():
        raise ValueError(f"run {run!r:.20}")
    return int(run)


def _runs(text: str) -> list[int]:
    """COCO's compressed run lengths: base 32, lowest digit first, `0x20` marks that more follow, `0x10` a negative
    number; from the fourth on, what differs from the run before last."""
    runs: list[int] = []
    value = shift = 0
    for character in text.encode("ascii"):
        digit = character - 48
        if not 0 <= digit < 64 or shift > 40:
            raise ValueError(f"character {character}")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("cut off")
    return runs
