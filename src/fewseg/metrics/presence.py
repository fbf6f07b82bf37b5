"""Is the label in the picture at all? The score that says so, and the threshold on it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewseg.ops.surest import surest_mean

SCORE_SHARE: Final = 0.01
"""Share of the pixels whose mean probability is a label's score."""


def presence_scores(coarse: Tensor) -> list[float]:
    """How sure the model is that each label is in the picture at all, in [0, 1].

    The mean foreground probability of the most confident 1 % of the pixels at the model's size: one lone pixel does
    not make an object present, and a small object is not diluted by the background. `coarse` is (labels, h, w).
    """
    return [float(v) for v in surest_mean(coarse.flatten(1), SCORE_SHARE)]


def choose_threshold(here: NDArray[np.float64], away: NDArray[np.float64]) -> dict[str, float]:
    """The threshold with the best balanced accuracy, that accuracy, and the area under the ROC curve.

    `here` are the scores of queries that hold the class, `away` those of queries that do not.
    """
    values = np.unique(np.concatenate([here, away]))
    candidates = np.concatenate([values[:1], (values[1:] + values[:-1]) / 2])
    balanced = [((here >= t).mean() + (away < t).mean()) / 2 for t in candidates]
    best = int(np.argmax(balanced))
    area = (here[:, None] > away).mean() + 0.5 * (here[:, None] == away).mean()
    return {
        "presence_threshold": float(candidates[best]),  # not rounded: a sure model's scores are all near 0 or 1
        "presence_balanced_accuracy": round(float(balanced[best]), 3),
        "presence_roc_area": round(float(area), 3),
    }
