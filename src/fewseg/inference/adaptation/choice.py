"""Which networks to use, if any, by how well they predict the examples that they have not seen.

Few examples say little, so another average of networks must be ahead of the first by its standard error, which is
never believed to be small. Against the frozen model the mean gain decides, from `ENOUGH_EXAMPLES` on: a standard error
above zero was asked for before, and refused fits that gained on unseen images (docs/adaptation.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

OPTIONS: Final[tuple[tuple[str, ...], ...]] = (
    ("all", "backbone"),
    ("all",),
    ("all", "filters"),
    ("backbone",),
    ("filters",),
)
"""Networks that are averaged; the first stands until another is better."""

LEAST_DEVIATION: Final = 0.1
"""Standard deviation, over examples, of a difference of two IoUs: no smaller one is believed."""

ENOUGH_EXAMPLES: Final = 5
"""Examples from which a mean gain is believed without its standard error, and labels are adapted unasked."""


@dataclass(frozen=True)
class Choice:
    """What the left-out examples say."""

    parts: tuple[str, ...]
    """The networks that are used."""
    better: bool
    """Whether they are to be used in place of the frozen model."""
    before: tuple[float, ...]
    """IoU of every example by the frozen model."""
    after: tuple[float, ...]
    """IoU of every example by what would have been chosen without it."""


def choose(
    logits: Mapping[str, Sequence[NDArray[np.float32]]], truth: Sequence[NDArray[np.bool_]], *, force: bool = False
) -> Choice:
    """The choice by logits of left-out examples, by network and of the frozen model (`frozen`), and their truth.

    Every example's are of any number of pixels, the same as its truth's. With `force` networks are used anyway.
    """
    before = ious([logits["frozen"]], truth)
    scores = np.stack([ious([logits[part] for part in option], truth) for option in OPTIONS])
    everything = np.arange(len(truth))
    enough = len(truth) >= ENOUGH_EXAMPLES
    best, better = _decide(scores, before, everything, enough)
    after = []
    for one in everything:
        own, own_better = _decide(scores, before, np.delete(everything, one), enough)
        after.append(float(scores[own, one] if own_better or force else before[one]))
    return Choice(OPTIONS[best], better or force, tuple(map(float, before)), tuple(after))


def _decide(
    scores: NDArray[np.float64], before: NDArray[np.float64], examples: NDArray[np.int64], enough: bool
) -> tuple[int, bool]:
    """The option, and whether it beats the frozen model, by some of the examples."""
    if not len(examples):
        return 0, False
    ahead = [_sure_gain(option[examples] - scores[0, examples]) for option in scores]
    best = int(np.argmax(ahead)) if max(ahead) > 0 else 0
    gains = scores[best, examples] - before[examples]
    return best, (float(gains.mean()) if enough else _sure_gain(gains)) > 0


def _sure_gain(differences: NDArray[np.float64]) -> float:
    """The mean difference less its standard error."""
    if not differences.any():
        return 0.0
    deviation = max(LEAST_DEVIATION, float(differences.std(ddof=1)) if len(differences) > 1 else 0.0)
    return float(differences.mean() - deviation / len(differences) ** 0.5)


def ious(logits: Sequence[Sequence[NDArray[np.float32]]], truth: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """IoU of every example where the mean of several logits is above 0; 1 where neither has foreground."""
    values = []
    for *own, true in zip(*logits, truth, strict=True):
        found = np.mean(own, 0) > 0
        union = int((found | true).sum())
        values.append((found & true).sum() / union if union else 1.0)
    return np.array(values)
