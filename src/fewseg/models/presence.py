"""Is the label in the image at all? The score that says so, and the threshold on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewseg.models.ops.top_k import top_fraction_mean

SCORE_SHARE: Final = 0.01
"""Fraction of the pixels, the most probable ones, whose mean probability is a label's score."""

DEFAULT_THRESHOLD: Final = 0.5
"""Presence threshold of models that bring none of their own (`method.extra["presence_threshold"]`)."""

RECALL: Final = 0.85
"""Share of the images with the label that thresholds are chosen to call present, at least."""

NEAREST: Final = 1e-6
"""Probabilities are clamped to this distance from 0 and 1, about what float32 tells apart."""


class PresenceScale(NamedTuple):
    """Platt scaling from the top 1 % pixel probability to the probability that the label is present.

    Logistic regression on the log-odds (Platt, "Probabilistic outputs for support vector machines", 1999), fitted
    on as many images with the label as without. The default leaves everything as it is.
    """

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, probability: float) -> float:
        """The score, in [0, 1], of a mean probability of the top 1 % of the pixels."""
        if self == UNSCALED:
            return probability
        near = min(max(probability, NEAREST), 1 - NEAREST)
        grown = math.exp(-abs(odds := self.slope * math.log(near / (1 - near)) + self.offset))  # never above 1
        return (1.0 if odds >= 0 else grown) / (1 + grown)

    @classmethod
    def of(cls, extra: Mapping[str, Any]) -> Self:
        """The scale among a checkpoint's `presence_` values, the default where it has none; raises `ValueError`."""
        scale = cls(float(extra.get("presence_slope", 1.0)), float(extra.get("presence_offset", 0.0)))
        if not (math.isfinite(scale.slope) and math.isfinite(scale.offset)):
            raise ValueError(f"a presence scale of {scale.slope} and {scale.offset} is none")
        return scale


UNSCALED: Final = PresenceScale()


def presence_scores(coarse: Tensor, scale: PresenceScale = UNSCALED) -> list[float]:
    """Presence scores, in [0, 1], of every label in an image.

    The mean foreground probability of the top 1 % of the pixels of `coarse` (labels, h, w) at the model's size, put
    through `scale`: a single pixel does not make an object present, and background does not dilute a small object.
    """
    return [scale(float(v)) for v in top_fraction_mean(coarse.flatten(1), SCORE_SHARE)]


def fit_scale(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> PresenceScale:
    """The presence scale that calibrates scores.

    `positives` and `negatives` are unscaled scores of queries that show the class and of queries that do not.
    """
    from scipy.optimize import minimize  # a tenth of a second that only trainings need
    from scipy.special import expit, logit

    odds = logit(np.concatenate([positives, negatives]).clip(NEAREST, 1 - NEAREST))
    # Platt's targets, smoothed by the number of queries: separable scores would otherwise become 0 and 1.
    targets = [(len(positives) + 1) / (len(positives) + 2), 1 / (len(negatives) + 2)]
    wanted = np.repeat(targets, [len(positives), len(negatives)])

    def wrong(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        found = values[0] * odds + values[1]
        miss = expit(found) - wanted
        return float((np.logaddexp(0, found) - wanted * found).mean()), np.array([(miss * odds).mean(), miss.mean()])

    # A slope below 0 would turn the order of the scores around.
    fitted = minimize(wrong, np.array([1.0, 0.0]), jac=True, bounds=[(1e-3, None), (None, None)], method="L-BFGS-B").x
    return PresenceScale(float(fitted[0]), float(fitted[1]))


def recall_threshold(positives: NDArray[np.float64], recall: float = RECALL) -> float:
    """The highest threshold, at most one half, that this share of the scores `positives` reaches."""
    missed = int((1 - recall) * len(positives) + 1e-9)
    return float(min(DEFAULT_THRESHOLD, np.sort(positives)[missed]))


def task_threshold(positives: Sequence[float], refused: Sequence[float], default: float) -> float:
    """The threshold of a task: the nearest to `default` among those with the fewest wrong answers.

    `positives` are scores of images that show the label, `refused` of images that do not. Without any it is `default`.
    """
    beyond = [math.nextafter(score, 2) for score in refused if score < 1]
    candidates = {default, *positives, *beyond}

    def wrong(threshold: float) -> tuple[int, float]:
        misses = sum(score < threshold for score in positives)
        return misses + sum(score >= threshold for score in refused), abs(threshold - default)

    return min(sorted(candidates), key=wrong)


def balanced_accuracy(positives: NDArray[np.float64], negatives: NDArray[np.float64], threshold: float) -> float:
    """Mean of the recalls on queries that show the class and on queries that do not."""
    return float(((positives >= threshold).mean() + (negatives < threshold).mean()) / 2)


def roc_area(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> float:
    """Area under the ROC curve: probability that a positive scores higher than a negative; ties count half."""
    return float((positives[:, None] > negatives).mean() + 0.5 * (positives[:, None] == negatives).mean())
