"""From a prompt's rough mask to its object, by what the model finds in the image and what a label's examples say.

What a label's examples find in the box, or connected with the points, is the object at first. Where they find nothing,
or the label has none, it is what surely belongs to it: in a box the middle of the rough mask. That is handed to the
model as an example of its own image (`fewseg.inference.self_support`), then what comes of it, and the last answer,
together with what the label's examples say, is the object. What is marked outside takes back what is like it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.special import expit, logit

from fewseg.images.prompts import Box
from fewseg.inference.superpixels import Regions, Window

Bools: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float32]

_ROUNDS: Final = 3
"""Most times that the object so far is handed to the model, where no examples have told of it; else once."""
_SETTLED: Final = 0.98
"""IoU with the object so far from which another time would change nothing."""
_MIDDLE: Final = 0.8
"""Squared radius of the ellipse that is the object at first, where that which touches the box's sides has 1."""
_LEAST: Final = 0.1
"""Share of a box that its object covers at least."""
_PULL: Final = 0.3
"""Weight of a superpixel's prior in a walk, against that of a neighbour at distance 0."""
_MOST: Final = 5.0
"""Log odds that one source may give, for or against."""
_FIXED: Final = 30.0
"""Log odds of what is marked."""


@dataclass(frozen=True)
class Guidance:
    """What is known of an image beside its superpixels."""

    like: Callable[[Bools, Window], Floats | None]
    """`SelfSupport.like`: probabilities (h, w) in a window of what a mask (h, w) of it shows."""
    taught: Floats | None = None
    """(h, w): the label's probabilities in the whole image by its own examples; None where it has none."""


@dataclass(frozen=True)
class Search:
    """The search for the object of one prompt in a window of the image."""

    guidance: Guidance
    regions: Regions
    window: Window
    within: NDArray[np.int64]
    """Superpixels that are marked inside."""
    without: NDArray[np.int64]
    """Superpixels that are marked outside."""

    def in_box(self, rough: Bools, box: Box) -> Floats:
        """Log odds (h, w) of the object in the window, from its rough mask (h, w) and a box in shares of the window."""
        y, x = _grid(rough.shape)
        across = (2 * x - box[0] - box[2]) / (box[2] - box[0])
        down = (2 * y - box[1] - box[3]) / (box[3] - box[1])
        inside = (np.abs(across) <= 1) & (np.abs(down) <= 1)
        middle = inside & (across**2 + down**2 <= _MIDDLE)
        least = max(1.0, _LEAST * inside.sum())

        def part(mask: Bools) -> Bools | None:
            return mask & inside if (mask & inside).sum() >= least else None

        start = part(rough & middle)
        return self._find(part, middle if start is None else start, rough)

    def around(self, rough: Bools, shift: float) -> Floats:
        """Log odds (h, w) of the object around what is marked, from a rough mask (h, w) that surely belongs to it.

        `shift` is added to them, for a larger or a smaller object.
        """
        odds = self._find(self._connected, rough, rough) + shift
        chosen = self._connected(odds >= 0)
        return np.where((odds < 0) | (rough if chosen is None else chosen), odds, -_FIXED).astype(np.float32)

    def _find(self, part: Callable[[Bools], Bools | None], start: Bools, rough: Bools) -> Floats:
        """Log odds (h, w), beginning with what the examples find, else with `start`; those of `rough` where all fail.

        `part` gives what of a mask (h, w) may belong to the object, None for too little.
        """
        known = self._taught(rough.shape)
        found = None if known is None else part(known >= 0)
        if known is None or found is None:
            known, found, rounds = None, start, _ROUNDS
        else:
            rounds = 1
        odds = np.where(rough, 1, -1).astype(np.float32) if known is None else known
        for _ in range(rounds):
            values = self.guidance.like(found, self.window)
            if values is None:
                break
            said = _odds(values) if known is None else (known + _odds(values)) / np.float32(2)
            now = part(self._corrected(said) >= 0)
            if now is None:
                break
            odds = said
            if (now & found).sum() >= _SETTLED * (now | found).sum():
                break
            found = now
        return self._corrected(odds)

    def _corrected(self, odds: Floats) -> Floats:
        """The log odds (h, w), corrected by what is marked and, where that is outside, by what is like it."""
        if not len(self.within) + len(self.without):
            return odds
        labels, regions = self.regions.labels, self.regions
        added = np.zeros(regions.count)
        if len(self.without):
            prior = np.bincount(labels.ravel(), odds.ravel()) / np.bincount(labels.ravel())
            inside = np.setdiff1d(np.union1d(self.within, np.flatnonzero(prior >= 0)), self.without)
            against = regions.similarity(self.without)
            added = np.minimum((regions.similarity(inside) if len(inside) else 0) - against, 0)
            values = regions.walk(expit(prior + added), np.full(regions.count, _PULL), self.within, self.without)
            added += logit(np.clip(values, 1e-6, 1 - 1e-6))
        added[self.within], added[self.without] = _FIXED, -_FIXED
        return (odds + added[labels]).astype(np.float32)

    def _connected(self, mask: Bools) -> Bools | None:
        """The parts of a mask (h, w) that touch a superpixel marked inside; None where none does."""
        parts, _ = ndimage.label(mask)
        chosen = np.unique(parts[np.isin(self.regions.labels, self.within) & mask])
        return np.isin(parts, chosen) if len(chosen) else None

    def _taught(self, shape: tuple[int, ...]) -> Floats | None:
        """The log odds of the label in the window, by its examples."""
        values = self.guidance.taught
        if values is None:
            return None
        height, width = values.shape
        box = (self.window[0] * width, self.window[1] * height, self.window[2] * width, self.window[3] * height)
        size = shape[1], shape[0]
        return _odds(np.asarray(Image.fromarray(values).resize(size, Image.Resampling.BILINEAR, box=box)))


def _odds(probabilities: Floats) -> Floats:
    return np.asarray(np.clip(logit(np.clip(probabilities, 1e-6, 1 - 1e-6)), -_MOST, _MOST), np.float32)


def _grid(shape: tuple[int, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows (h, 1) and columns (1, w) of an image of `shape` (h, w), in shares of it."""
    return (np.arange(shape[0])[:, None] + 0.5) / shape[0], (np.arange(shape[1])[None] + 0.5) / shape[1]
