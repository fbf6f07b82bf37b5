"""Which pixels of an example the classifier is fitted to, and which it is judged by.

Foreground may be a hundredth of an image and its boundary matters most. So beside pixels from everywhere, some are
drawn from the foreground and some from the background next to it, and weights put the shares right again, half way:
by the square root of each side's share of the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from fewseg.core.prediction import IGNORE

NEAR: Final = 0.015
"""Background counts as next to the foreground up to this share of the image's longest side."""

JUDGED: Final = 8000
"""Pixels of an example that its IoU is estimated from."""


@dataclass(frozen=True)
class PixelSample:
    """Some pixels of an image."""

    rows: NDArray[np.int64]
    """(N)."""
    columns: NDArray[np.int64]
    """(N)."""
    truth: NDArray[np.float32]
    """(N): 1 foreground, 0 background."""
    weight: NDArray[np.float32]
    """(N)."""


def sample_pixels(
    mask: NDArray[np.uint8], counts: tuple[int, int, int], rng: np.random.Generator, *, total: float = 1.0
) -> PixelSample:
    """Labelled pixels of a mask (H, W) of 0, 1 and 255 (unlabelled): from everywhere, foreground, next to it.

    `counts` are their numbers; there are fewer where the mask has fewer. `total` is the sum of their weights.
    """
    labelled, foreground = np.flatnonzero(mask != IGNORE), np.flatnonzero(mask == 1)
    near = np.flatnonzero(_near_foreground(mask))
    pools = zip((labelled, foreground, near), counts, strict=True)
    groups = [rng.choice(pool, min(n, len(pool)), replace=False) for pool, n in pools]
    truth = [mask.ravel()[group] == 1 for group in groups]
    share = max(len(foreground) / max(1, len(labelled)), 1e-4)
    inside, outside = share**0.5, (1 - share) ** 0.5
    beside = min(0.5, (len(near) / max(1, len(labelled))) ** 0.5) * outside
    weight = [np.zeros(len(group)) for group in groups]
    positives = sum(int(t.sum()) for t in truth[:2])
    for w, t in zip(weight[:2], truth[:2], strict=True):
        w[t] = inside / max(1, positives)
    if len(groups[2]):
        weight[2][:] = beside / len(groups[2])
    rest = ~truth[0]
    weight[0][rest] = (outside - (beside if len(groups[2]) else 0)) / max(1, int(rest.sum()))
    where, together = np.concatenate(groups), np.concatenate(weight)
    return PixelSample(
        where // mask.shape[1],
        where % mask.shape[1],
        np.concatenate(truth).astype(np.float32),
        (together * total / max(together.sum(), 1e-12)).astype(np.float32),
    )


def _near_foreground(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Background (H, W) within `NEAR` of the foreground."""
    if not (mask == 1).any():
        return np.zeros(mask.shape, np.bool_)
    distance = distance_transform_edt(mask != 1)
    return (mask == 0) & (distance <= max(4, NEAR * max(mask.shape)))


def lattice(mask: NDArray[np.uint8]) -> PixelSample:
    """Evenly spread labelled pixels of a mask (H, W), about `JUDGED` of them, all of the same weight."""
    step = max(1.0, (mask.size / JUDGED) ** 0.5)
    axes = []
    for side in mask.shape:
        count = max(1, int(side / step))
        axes.append(((np.arange(count) + 0.5) * side / count).astype(np.int64))
    rows, columns = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    labelled = mask[rows, columns] != IGNORE
    rows, columns = rows[labelled], columns[labelled]
    truth = (mask[rows, columns] == 1).astype(np.float32)
    return PixelSample(rows, columns, truth, np.full(len(truth), 1 / max(1, len(truth)), np.float32))
