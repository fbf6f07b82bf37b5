"""ROM and RUM: how far a mask splits into more regions than the truth has, or merges regions.

Region-wise over- and under-segmentation (Zhang et al., arXiv 2101.08418); both in [0, 1), lower is better. Regions are
8-connected; a region of the truth and one of the prediction overlap where they share a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewseg.evaluation.metrics.iou import counted_pixels

_EIGHT = np.ones((3, 3), np.uint8)


def region_overlaps(
    prediction: NDArray[Any], target: NDArray[Any], ignore: NDArray[Any] | None = None
) -> NDArray[np.bool_]:
    """Which regions of the truth (rows) overlap which of the prediction (columns).

    Args:
        prediction: (H, W), foreground where it is 1 or True.
        target: (H, W), foreground where it is 1; pixels of 255 belong to no region of either side.
        ignore: (H, W), further pixels that belong to no region, where non-zero.

    Raises:
        InvalidMask: the shapes differ.
    """
    counts = counted_pixels(prediction, target, ignore)
    truth, truths = ndimage.label((target == 1) & counts, _EIGHT)
    guess, guesses = ndimage.label((prediction == 1) & counts, _EIGHT)
    table = np.zeros((truths + 1, guesses + 1), np.bool_)
    table[truth, guess] = True
    return table[1:, 1:]


def rom_rum(overlaps: NDArray[np.bool_]) -> tuple[float, float]:
    """ROM and RUM from `region_overlaps`; both 0 where either side has no region.

    >>> round(rom_rum(np.array([[True], [True], [True], [True]]))[1], 6) == round(math.tanh(3), 6)
    True
    """
    return _excess(overlaps), _excess(overlaps.T)


def _excess(overlaps: NDArray[np.bool_]) -> float:
    """tanh(share of the regions in many-to-one overlaps times the surplus of overlaps), rows being the ones split."""
    if not overlaps.size:
        return 0.0
    partners = overlaps.sum(1)
    split = partners > 1
    pieces = overlaps[split].any(0)
    share = split.sum() * pieces.sum() / overlaps.size
    return math.tanh(float(share * (partners[split] - 1).sum()))


@dataclass(frozen=True)
class RegionScores:
    """In [0, 1); lower is better."""

    rom: float
    rum: float
    class_scores: dict[int, tuple[float, float]]
    """Class id to ROM and RUM, means over its episodes."""


class RegionMeter:
    """Means over a class's episodes, then over classes (the paper does not say): a thin state over `rom_rum`."""

    def __init__(self) -> None:
        self._values: dict[int, list[tuple[float, float]]] = {}

    def add(
        self, class_id: int, prediction: NDArray[Any], target: NDArray[Any], ignore: NDArray[Any] | None = None
    ) -> tuple[float, float]:
        """Count one episode (H, W); returns its own ROM and RUM."""
        values = rom_rum(region_overlaps(prediction, target, ignore))
        self.add_values(class_id, *values)
        return values

    def add_values(self, class_id: int, rom: float, rum: float) -> None:
        """Count an episode that was measured elsewhere."""
        self._values.setdefault(class_id, []).append((rom, rum))

    def scores(self, classes: Sequence[int] | None = None) -> RegionScores:
        """Scores over `classes`, or over those seen; 0 without any."""
        chosen = sorted(self._values) if classes is None else list(classes)
        means = {c: np.mean(self._values.get(c, [(0.0, 0.0)]), 0) for c in chosen}
        if not means:
            return RegionScores(0.0, 0.0, {})
        rom, rum = np.mean(list(means.values()), 0)
        return RegionScores(float(rom), float(rum), {c: (float(m[0]), float(m[1])) for c, m in means.items()})
