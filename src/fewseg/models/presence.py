"""Is the label in the image at all? The score that says so, and the threshold on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewseg.models.ops.surest import surest_mean

SCORE_SHARE: Final = 0.01
"""Share of the pixels whose mean probability is a label's score."""

DEFAULT_THRESHOLD: Final = 0.5
"""Presence threshold of models that bring none of their own (`method.extra["presence_threshold"]`)."""

_NEAREST: Final = 1e-6
"""To 0 and 1 that probabilities count as: float32 tells hardly more apart."""


class PresenceScale(NamedTuple):
    """From the probability of a label's surest pixels to the probability that the label is in the image at all.

    Logistic regression on the log-odds (Platt, "Probabilistic outputs for support vector machines", 1999), fitted
    on as many images with the label as without. The default leaves everything as it is.
    """

    slope: float = 1.0
    offset: float = 0.0

    def __call__(self, sure: float) -> float:
        """The score, in [0, 1], that the surest pixels' mean probability comes to."""
        if self == UNSCALED:
            return sure
        near = min(max(sure, _NEAREST), 1 - _NEAREST)
        grown = math.exp(-abs(odds := self.slope * math.log(near / (1 - near)) + self.offset))  # never above 1
        return (1.0 if odds >= 0 else grown) / (1 + grown)

    @classmethod
    def of(cls, extra: Mapping[str, Any]) -> Self:
        """The one among a checkpoint's `presence_` values; the default where it has none."""
        return cls(float(extra.get("presence_slope", 1.0)), float(extra.get("presence_offset", 0.0)))


UNSCALED: Final = PresenceScale()


def presence_scores(coarse: Tensor, scale: PresenceScale = UNSCALED) -> list[float]:
    """How sure the model is that each label is in the image at all, in [0, 1].

    What `scale` makes of the mean foreground probability of the most confident 1 % of the pixels at the model's size:
    one lone pixel does not make an object present, and a small object is not diluted by the background. `coarse` is
    (labels, h, w).
    """
    return [scale(float(v)) for v in surest_mean(coarse.flatten(1), SCORE_SHARE)]


def fit_scale(here: NDArray[np.float64], away: NDArray[np.float64]) -> PresenceScale:
    """The scale with which scores are as often right as they say.

    `here` and `away` are unscaled scores of queries that hold the class and of queries that do not.
    """
    from scipy.optimize import minimize  # a tenth of a second that only trainings need
    from scipy.special import expit, logit

    odds = logit(np.concatenate([here, away]).clip(_NEAREST, 1 - _NEAREST))
    # Platt's targets: nothing is surer than so many queries can tell, or scores that separate would be 0 and 1.
    sure = [(len(here) + 1) / (len(here) + 2), 1 / (len(away) + 2)]
    wanted = np.repeat(sure, [len(here), len(away)])

    def wrong(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        found = values[0] * odds + values[1]
        miss = expit(found) - wanted
        return float((np.logaddexp(0, found) - wanted * found).mean()), np.array([(miss * odds).mean(), miss.mean()])

    # A slope below 0 would turn the order of the scores around.
    fitted = minimize(wrong, np.array([1.0, 0.0]), jac=True, bounds=[(1e-3, None), (None, None)], method="L-BFGS-B").x
    return PresenceScale(float(fitted[0]), float(fitted[1]))


def balanced_accuracy(here: NDArray[np.float64], away: NDArray[np.float64], threshold: float) -> float:
    """Mean of the shares that are told right: of queries that hold the class, and of queries that do not."""
    return float(((here >= threshold).mean() + (away < threshold).mean()) / 2)


def roc_area(here: NDArray[np.float64], away: NDArray[np.float64]) -> float:
    """How probable it is that a query that holds the class scores higher than one that does not; ties count half."""
    return float((here[:, None] > away).mean() + 0.5 * (here[:, None] == away).mean())
