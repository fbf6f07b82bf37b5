"""The mean of what is surest."""

from __future__ import annotations

from torch import Tensor


def surest_mean(x: Tensor, share: float) -> Tensor:
    """(N): the mean of the largest `share` of each row of (N, P), of one value at least.

    One lone pixel then says little, and a small object is not diluted by what is around it.
    """
    kept = max(1, round(x.shape[1] * share))
    return x.topk(kept, 1).values.mean(1)
