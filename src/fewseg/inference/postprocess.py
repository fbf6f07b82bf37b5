"""From probabilities at the model's size to a result at the image's size, in strips.

A 12,000 x 9,000 image has 108 million pixels: the result itself takes 5 bytes a pixel for every label (float32
probability, mask) and 2 for the label map, so 7 for one label; without probabilities 1 and 2. Nothing else of that size
is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewseg.core.types import Prediction
from fewseg.models.ops.resize import resize
from fewseg.models.presence import UNSCALED, PresenceScale, presence_scores

MASK_THRESHOLD: Final = 0.5
"""Foreground is where the probability reaches this."""

_STRIP: Final = 1 << 22
"""Values that are resized at a time."""


def full_size_prediction(
    coarse: Tensor,
    labels: Sequence[str],
    size: tuple[int, int],
    threshold: float,
    *,
    scale: PresenceScale = UNSCALED,
    probabilities: bool = True,
) -> Prediction:
    """What `labels`, with probabilities `coarse` (labels, h, w), mean for an image of `size` (width, height).

    Probabilities are resized bilinearly, masks are cut at `MASK_THRESHOLD`, overlaps go to the most probable label
    (the first of equals). Labels are present whose scores, on that `scale`, reach `threshold`. Without `probabilities`
    that field stays empty, which takes less than half the memory.
    """
    width, height = size
    shape = (height, width)
    masks = {label: np.empty(shape, np.bool_) for label in labels}
    kept = {label: np.empty(shape, np.float32) for label in labels} if probabilities else {}
    label_map = np.empty(shape, np.uint16)
    for rows, strip in _strips(coarse, height, width):
        values = strip.numpy()
        for label, probable in zip(labels, values, strict=True):
            np.greater_equal(probable, MASK_THRESHOLD, out=masks[label][rows])
            if probabilities:
                kept[label][rows] = probable
        label_map[rows] = _first_best(values, [masks[label][rows] for label in labels])
    scores = dict(zip(labels, presence_scores(coarse, scale), strict=True))
    present = {label: score >= threshold for label, score in scores.items()}
    return Prediction(masks, kept, label_map, scores, present)


def _first_best(values: NDArray[np.float32], inside: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint16]:
    """1 + the place of the largest of `values` (labels, h, w), the first of equals, where it is `inside`; else 0."""
    chosen = inside[0].astype(np.uint16)
    best = values[0]
    for place in range(1, len(values)):
        better = values[place] > best
        best = np.maximum(best, values[place])
        np.copyto(chosen, np.uint16(place + 1), where=better & inside[place])
    return chosen


def _strips(coarse: Tensor, height: int, width: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `ops.resize.resize(coarse, (height, width))`, a strip at a time, each (labels, rows, width)."""
    coarse = coarse.float()
    step = max(1, _STRIP // (width * len(coarse)))
    last = coarse.shape[1] - 1
    # Corners are aligned, as in `resize`: first and last row of the one lie on those of the other.
    places = torch.linspace(0, last, height, dtype=torch.float64) if height > 1 else torch.zeros(1, dtype=torch.float64)
    above = places.floor().long().clamp(max=last)
    below = (above + 1).clamp(max=last)
    share = (places - above).float()
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        mixed = torch.lerp(coarse[:, above[rows]], coarse[:, below[rows]], share[rows, None])
        yield rows, resize(mixed[None], (mixed.shape[1], width))[0]
