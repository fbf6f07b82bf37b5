"""Losses of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import unknown
from fewseg.core.types import IGNORE

GCE_POWER: Final = 0.5
"""Power of the generalised cross-entropy: towards 0 it becomes the cross-entropy, at 1 it is the absolute error."""


@dataclass(frozen=True)
class BatchTotals:
    """Totals of a batch, by which the losses of its micro-batches are divided: these add up to the batch's loss."""

    pixels: int
    """Pixels of all query masks that are not ignored."""
    episodes: int


Loss = Callable[[Tensor, Tensor, BatchTotals | None], Tensor]
"""Takes logits, target and the totals of the batch that these are a micro-batch of; None for a whole batch."""


def cross_entropy(logits: Tensor, target: Tensor, totals: BatchTotals | None = None) -> Tensor:
    """Mean over the pixels that are not ignored; 0 where all are.

    Args:
        logits: (B, 2, H, W).
        target: (B, H, W), int64 of 0, 1 and 255 (ignored).
        totals: of the batch that these are a micro-batch of.
    """
    total = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="sum")
    return _per_pixel(total, target, totals)


def _per_pixel(total: Tensor, target: Tensor, totals: BatchTotals | None) -> Tensor:
    """A sum over pixels to their mean, or to its share of the batch's mean."""
    return total / ((target != IGNORE).sum().clamp(min=1) if totals is None else max(1, totals.pixels))


def generalised_cross_entropy(logits: Tensor, target: Tensor, totals: BatchTotals | None = None) -> Tensor:
    """Cross-entropy on foreground, generalised cross-entropy on background, where a pixel costs 2 at most.

    That is (1 - p^q) / q with q = `GCE_POWER` (Zhang and Sabuncu, NeurIPS 2018): objects in training images that nobody
    labelled count as background, and predicting them should cost little.
    """
    log_p = F.log_softmax(logits.float(), 1)
    background = (1 - (GCE_POWER * log_p[:, 0]).exp()) / GCE_POWER
    total = torch.where(target == 1, -log_p[:, 1], background)[target != IGNORE].sum()
    return _per_pixel(total, target, totals)


def dice(logits: Tensor, target: Tensor, totals: BatchTotals | None = None) -> Tensor:
    """SCCAN's Dice loss: 1 - 2 Σpt / (Σp² + Σt²) of sigmoid(logits), summed over the two channels, batch mean.

    Ignored pixels have t = 0 in both channels while p stays, as in the released code. Arguments as in `cross_entropy`.
    """
    probability = logits.float().sigmoid()
    truth = torch.stack([target == 0, target == 1], 1).to(probability.dtype)
    both = (probability * truth).flatten(2).sum(2)
    squares = (probability.square() + truth).flatten(2).sum(2)
    each = (1 - 2 * both / squares.clamp(min=1e-8)).sum(1)
    return each.mean() if totals is None else each.sum() / totals.episodes


def _sum(first: Loss, second: Loss) -> Loss:
    def both(logits: Tensor, target: Tensor, totals: BatchTotals | None = None) -> Tensor:
        return first(logits, target, totals) + second(logits, target, totals)

    return both


LOSSES: Final[dict[str, Loss]] = {
    "ce": cross_entropy,
    "dice": dice,
    "ce+dice": _sum(cross_entropy, dice),
    "gce+dice": _sum(generalised_cross_entropy, dice),
}
"""Loss by name."""


def choose_loss(name: str) -> Loss:
    """The loss of that name; raises `InvalidOption` with the nearest known names."""
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]
