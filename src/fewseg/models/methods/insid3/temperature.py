"""The temperature that makes probabilities of logits whose sign is decided already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from torch import Tensor

_BINS: Final = 2048
_LARGEST: Final = 32.0
"""Logits beyond it count as this."""

_FACTORS: Final = (0.05, 20.0)


def fitted_factor(episodes: Iterable[tuple[Tensor, Tensor]]) -> float:
    """The factor on foreground logits with the least cross-entropy, each pixel of each query alike; 1 without any.

    `episodes` gives logits (B, H, W) and masks (B, H, W) of 0, 1 and ignored pixels. Logits are counted in bins, so
    that memory does not grow with their number.
    """
    from scipy.optimize import minimize_scalar  # a tenth of a second that only calibration needs

    counts = np.zeros((2, _BINS))  # background, foreground
    for logits, masks in episodes:
        place = ((logits.detach().cpu().double() / _LARGEST).clamp(-1, 1) + 1) / 2 * (_BINS - 1)
        bins, truth = place.round().long().numpy(), masks.cpu().numpy()
        for value in (0, 1):
            counts[value] += np.bincount(bins[truth == value], minlength=_BINS)
    if not counts.any():
        return 1.0
    centres = np.linspace(-_LARGEST, _LARGEST, _BINS)

    def cross_entropy(log_factor: float) -> float:
        scaled = np.exp(log_factor) * centres
        return float((counts[0] * np.logaddexp(0, scaled) + counts[1] * np.logaddexp(0, -scaled)).sum() / counts.sum())

    return float(np.exp(minimize_scalar(cross_entropy, bounds=np.log(_FACTORS), method="bounded").x))
