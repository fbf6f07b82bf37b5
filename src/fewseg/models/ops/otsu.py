"""Otsu's threshold (1979), over the values themselves: no histogram, so no bins to choose."""

from __future__ import annotations

import torch
from torch import Tensor


def otsu_threshold(values: Tensor) -> float:
    """The threshold t that parts `values > t` from the rest with the largest variance between the two groups.

    It lies midway between two neighbouring values; of equally good ones it is the lowest. For values that are all the
    same it is that value, so that nothing is above it.
    """
    ordered = values.detach().flatten().cpu().double().sort().values  # Apple's GPUs have no float64
    count = ordered.numel()
    below = torch.arange(1, count, dtype=torch.float64)  # how many each cut leaves below it
    sums = ordered.cumsum(0)
    means = sums[:-1] / below, (sums[-1] - sums[:-1]) / (count - below)
    between = below * (count - below) * (means[1] - means[0]) ** 2
    between[ordered[1:] <= ordered[:-1]] = -1  # no cut parts equal values
    if count < 2 or between.max() < 0:
        return float(ordered[-1])
    cut = int(between.argmax())
    return float((ordered[cut] + ordered[cut + 1]) / 2)
