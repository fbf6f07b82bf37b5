"""Agglomerative clusters of unit tokens."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ROWS: Final = 512
"""Tokens whose similarities to all later ones are computed at a time."""


def cosine_clusters(tokens: Tensor, similarity: float) -> Tensor:
    """(N,), int64, on the tokens' device: the cluster of each unit token (N, C), numbered by first appearance.

    Average linkage (UPGMA) on the cosine distance; merges at a distance of 1 - `similarity` or more are not made.
    """
    count = len(tokens)
    if count < 2:
        return torch.zeros(count, dtype=torch.int64, device=tokens.device)
    from scipy.cluster.hierarchy import linkage  # a fifth of a second that other methods need not wait for

    merges = linkage(cosine_distances(tokens), "average")
    labels = torch.from_numpy(_partition(merges, count, 1 - similarity))
    return labels.to(tokens.device)


def cosine_distances(tokens: Tensor) -> NDArray[np.float64]:
    """(N (N - 1) / 2,): 1 - cosine of every two of the unit tokens (N, C), row by row above the diagonal.

    Only products above the diagonal are computed, and never a whole N x N matrix is held: half of the time and a third
    of the memory of what SciPy would otherwise be given.
    """
    count = len(tokens)
    distances = np.empty(count * (count - 1) // 2)
    filled = 0
    for first in range(0, count, _ROWS):
        cosines = tokens[first : first + _ROWS] @ tokens[first:].T
        block = (1 - cosines.clamp_(-1, 1)).cpu().numpy()
        for row, values in enumerate(block):
            rest = values[row + 1 :]
            distances[filled : filled + len(rest)] = rest
            filled += len(rest)
    return distances


def _partition(merges: NDArray[np.float64], count: int, height: float) -> NDArray[np.int64]:
    """Clusters of `count` tokens by those of SciPy's sorted merges that are lower than `height`."""
    parents = np.arange(2 * count - 1)
    low = int((merges[:, 2] < height).sum())
    pairs = merges[:low, :2].astype(np.int64)
    parents[pairs] = np.arange(count, count + low)[:, None]
    for node in range(count + low - 1, -1, -1):  # a merge's own parent is a later merge
        parents[node] = parents[parents[node]]
    _, first, inverse = np.unique(parents[:count], return_index=True, return_inverse=True)
    numbers = np.empty(len(first), np.int64)
    numbers[np.argsort(first)] = np.arange(len(first))
    return numbers[inverse]


def cluster_sizes(labels: Tensor) -> Tensor:
    """(K,), float32: tokens of each cluster."""
    return torch.bincount(labels).to(torch.float32)


def mean_by_cluster(values: Tensor, labels: Tensor) -> Tensor:
    """(K, ...): the mean of `values` (N, ...) over each cluster."""
    sizes = cluster_sizes(labels).to(values.dtype)
    sums = values.new_zeros(len(sizes), *values.shape[1:]).index_add_(0, labels, values)
    return sums / sizes.view(-1, *[1] * (values.ndim - 1))
