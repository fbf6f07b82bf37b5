"""From probabilities at the model's size to a result at the image's size, in strips.

A 12,000 x 9,000 image has 108 million pixels: the result itself takes 5 bytes a pixel for every label (float32
probability, mask) and 2 for the label map, so 7 for one label; without probabilities 1 and 2. Nothing else of that size
is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewseg.core.types import Prediction
from fewseg.inference.objects.found import objects_of
from fewseg.inference.objects.shape import ObjectShape
from fewseg.models.ops.resize import resize
from fewseg.models.presence import DEFAULT_THRESHOLD, UNSCALED, PresenceScale, presence_scores

MASK_THRESHOLD: Final = 0.5
"""Foreground is where the probability reaches this."""

STRIP: Final = 1 << 22
"""Values that are resized at a time."""

_CONFIDENCES: Final = 1024
"""Rows, and columns, of probabilities that are kept for the scores of objects, at most."""


@dataclass(frozen=True)
class PresenceRule:
    """When a label counts as present in an image."""

    threshold: float = DEFAULT_THRESHOLD
    """Score from which it does."""
    scale: PresenceScale = UNSCALED
    """From the probability of its most confident pixels to the score."""
    by_label: Mapping[str, float] = field(default_factory=dict)
    """The threshold of labels that have one of their own."""

    def threshold_of(self, label: str) -> float:
        """The score from which this label counts as present."""
        return self.by_label.get(label, self.threshold)

    def scores(self, coarse: Tensor) -> list[float]:
        """The score, in [0, 1], of each label of `coarse` probabilities (labels, h, w)."""
        return presence_scores(coarse, self.scale)


class PredictionBuilder:
    """A `Prediction` at full size that is filled row by row."""

    def __init__(self, labels: Sequence[str], shape: tuple[int, int], probabilities: bool) -> None:
        """For an image of `shape` (height, width); without `probabilities` that field of the result stays empty."""
        self.masks = {label: np.empty(shape, np.bool_) for label in labels}
        self.probabilities = {label: np.empty(shape, np.float32) for label in labels} if probabilities else {}
        self.label_map = np.empty(shape, np.uint16)
        self._step = -(-max(shape) // _CONFIDENCES)
        small = tuple(-(-side // self._step) for side in shape)
        self._confidences = {label: np.empty(small, np.float16) for label in labels}

    def put(self, rows: slice, values: NDArray[np.float32]) -> None:
        """The foreground probabilities (labels, rows, width) of some rows.

        Masks are cut at `MASK_THRESHOLD`; in the label map a pixel belongs to the most probable label, the first of
        equals, where that one's mask has it.
        """
        inside, step = [], self._step
        first = -rows.start % step
        for label, probable in zip(self.masks, values, strict=True):
            inside.append(np.greater_equal(probable, MASK_THRESHOLD, out=self.masks[label][rows]))
            if self.probabilities:
                self.probabilities[label][rows] = probable
            place = (rows.start + first) // step
            kept = np.minimum(probable[first::step, ::step], 1)
            self._confidences[label][place : place + len(kept)] = kept
        chosen = inside[0].astype(np.uint16)
        best = values[0]
        for place in range(1, len(values)):
            better = values[place] > best
            best = np.maximum(best, values[place])
            np.copyto(chosen, np.uint16(place + 1), where=better & inside[place])
        self.label_map[rows] = chosen

    def prediction(
        self, scores: Sequence[float], rule: PresenceRule, shapes: Mapping[str, ObjectShape] | None = None
    ) -> Prediction:
        """The result, once all rows are in; `shapes` are the typical objects of labels."""
        named = dict(zip(self.masks, scores, strict=True))
        present = {label: score >= rule.threshold_of(label) for label, score in named.items()}
        objects = objects_of(self.masks, shapes or {}, self._confidences)
        return Prediction(self.masks, self.probabilities, self.label_map, named, present, objects)


def full_size_prediction(
    coarse: Tensor,
    labels: Sequence[str],
    size: tuple[int, int],
    rule: PresenceRule = PresenceRule(),
    shapes: Mapping[str, ObjectShape] | None = None,
    *,
    probabilities: bool = True,
    strip: int = STRIP,
) -> Prediction:
    """The result for an image of `size` (width, height) whose `labels` have probabilities `coarse` (labels, h, w).

    Probabilities are resized bilinearly, `strip` values at a time. `shapes` are the typical objects of labels. Without
    `probabilities` that field of the result stays empty, which takes less than half the memory.
    """
    width, height = size
    result = PredictionBuilder(labels, (height, width), probabilities)
    for rows, values in _strips(coarse, height, width, strip):
        result.put(rows, values.numpy())
    return result.prediction(rule.scores(coarse), rule, shapes)


def _strips(coarse: Tensor, height: int, width: int, strip: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `ops.resize.resize(coarse, (height, width))`, a strip at a time, each (labels, rows, width)."""
    coarse = coarse.float()
    step = max(1, strip // (width * len(coarse)))
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
