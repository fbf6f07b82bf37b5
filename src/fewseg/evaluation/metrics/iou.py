"""mIoU, FB-IoU and per-class IoU of few-shot episodes, as both papers count them.

Intersections and unions are summed per class over all episodes *before* dividing. mIoU is the mean over the classes of
the foreground's IoU; FB-IoU the mean of the foreground's and the background's, each summed over the classes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidMask
from fewseg.core.prediction import IGNORE


def intersection_and_union(
    prediction: NDArray[Any], target: NDArray[Any], ignore: NDArray[Any] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pixel counts of one pair of binary masks, or of a batch.

    Args:
        prediction: (..., H, W), foreground where it is 1 or True.
        target: (..., H, W), foreground where it is 1; pixels of 255 do not count.
        ignore: (..., H, W), further pixels that do not count, where non-zero.

    Returns:
        Intersections and unions, each (..., 2): background, foreground.

    Raises:
        InvalidMask: the shapes differ.
    """
    counts = counted_pixels(prediction, target, ignore)
    guess, truth = (prediction == 1) & counts, (target == 1) & counts
    both, either, total = (x.sum((-2, -1), dtype=np.int64) for x in (guess & truth, guess | truth, counts))
    # Background in both is what neither calls foreground; background in either is what not both call foreground.
    return np.stack([total - either, both], -1), np.stack([total - both, either], -1)


def counted_pixels(
    prediction: NDArray[Any], target: NDArray[Any], ignore: NDArray[Any] | None = None
) -> NDArray[np.bool_]:
    """The pixels that are neither 255 in the target nor ignored; raises `InvalidMask` where the shapes differ."""
    if prediction.shape != target.shape or (ignore is not None and ignore.shape != target.shape):
        raise InvalidMask(f"prediction is {prediction.shape}, target is {target.shape}: resize the prediction first")
    counted: NDArray[np.bool_] = target != IGNORE
    return counted if ignore is None else counted & (ignore == 0)


@dataclass(frozen=True)
class IoUScores:
    """Percentages."""

    miou: float
    fb_iou: float
    class_iou: dict[int, float]
    """Class id to foreground IoU over all its episodes."""


class IoUMeter:
    """Sums intersections and unions per class: a thin state over `intersection_and_union`."""

    def __init__(self) -> None:
        self._sums: dict[int, NDArray[np.int64]] = {}

    def add(
        self, class_id: int, prediction: NDArray[Any], target: NDArray[Any], ignore: NDArray[Any] | None = None
    ) -> float:
        """Count one episode (H, W); returns its own foreground IoU in [0, 1], 0 where the union is empty."""
        both, either = intersection_and_union(prediction, target, ignore)
        self.add_counts(class_id, both, either)
        return float(both[1] / max(either[1], 1))

    def add_counts(self, class_id: int, intersection: NDArray[np.int64], union: NDArray[np.int64]) -> None:
        """Count pixels that were counted elsewhere, each (background, foreground)."""
        before = self._sums.get(class_id, np.zeros((2, 2), np.int64))
        self._sums[class_id] = before + np.stack([intersection, union])

    def scores(self, classes: Sequence[int] | None = None) -> IoUScores:
        """Scores over `classes`, or over those seen; all 0 without any.

        A class with an empty union has IoU 0, as in the released code.
        """
        chosen = sorted(self._sums) if classes is None else list(classes)
        if not chosen:
            return IoUScores(0.0, 0.0, {})
        # (class, intersection | union, background | foreground)
        sums = np.stack([self._sums.get(c, np.zeros((2, 2), np.int64)) for c in chosen]).astype(np.float64)
        per_class = 100 * sums[:, 0, 1] / np.maximum(sums[:, 1, 1], 1)
        total = sums.sum(0)
        sides = 100 * total[0] / np.maximum(total[1], 1)
        return IoUScores(
            float(per_class.mean()), float(sides.mean()), dict(zip(chosen, per_class.tolist(), strict=True))
        )
