"""Mean of the largest values."""

from __future__ import annotations

from torch import Tensor


def top_fraction_mean(x: Tensor, fraction: float) -> Tensor:
    """(N): the mean of the largest `fraction` of the values of each row of (N, P), of one value at least.

    A single outlier has little influence on it, and the background around a small object has none.
    """
    count = max(1, round(x.shape[1] * fraction))
    return x.topk(count, 1).values.mean(1)
