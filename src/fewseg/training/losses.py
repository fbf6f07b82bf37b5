"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import unknown
from fewseg.core.types import IGNORE

FORGIVING: Final = 0.5
"""Power of the generalised cross-entropy: towards 0 it becomes the cross-entropy, at 1 it is the absolute error."""


@dataclass(frozen=True)
class Whole:
    """The batch that a part belongs to: the losses of its parts, each divided by this, add up to the batch's loss."""

    pixels: int
    """That count, of all its query masks."""
    episodes: int


Loss = Callable[[Tensor, Tensor, Whole | None], Tensor]
"""Of logits and target; as a part of a larger batch, or None for a batch of its own."""


def cross_entropy(logits: Tensor, target: Tensor, whole: Whole | None = None) -> Tensor:
    """Mean over the pixels that count; 0 where none does.

    Args:
        logits: (B, 2, H, W).
        target: (B, H, W), int64 of 0, 1 and 255 (ignored).
        whole: the batch that these are a part of.
    """
    total = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="sum")
    return _a_pixel(total, target, whole)


def _a_pixel(total: Tensor, target: Tensor, whole: Whole | None) -> Tensor:
    """A sum over the pixels that count, to their mean or to its part of the whole batch's."""
    return total / ((target != IGNORE).sum().clamp(min=1) if whole is None else max(1, whole.pixels))


def forgiving_cross_entropy(logits: Tensor, target: Tensor, whole: Whole | None = None) -> Tensor:
    """As `cross_entropy`, but what is sure to be foreground where the target says background costs 2 at most.

    There it is the generalised cross-entropy, (1 - p^q) / q with q = `FORGIVING` (Zhang and Sabuncu, NeurIPS 2018):
    in training images things that nobody labelled count as background, and finding them is no grave mistake.
    """
    log_p = F.log_softmax(logits.float(), 1)
    background = (1 - (FORGIVING * log_p[:, 0]).exp()) / FORGIVING
    total = torch.where(target == 1, -log_p[:, 1], background)[target != IGNORE].sum()
    return _a_pixel(total, target, whole)


def dice(logits: Tensor, target: Tensor, whole: Whole | None = None) -> Tensor:
    """SCCAN's Dice loss: 1 - 2 Σpt / (Σp² + Σt²) of sigmoid(logits), summed over the two channels, batch mean.

    Ignored pixels have t = 0 in both channels while p stays, as in the released code. Arguments as in `cross_entropy`.
    """
    probability = logits.float().sigmoid()
    truth = torch.stack([target == 0, target == 1], 1).to(probability.dtype)
    both = (probability * truth).flatten(2).sum(2)
    squares = (probability.square() + truth).flatten(2).sum(2)
    each = (1 - 2 * both / squares.clamp(min=1e-8)).sum(1)
    return each.mean() if whole is None else each.sum() / whole.episodes


def _sum(first: Loss, second: Loss) -> Loss:
    def both(logits: Tensor, target: Tensor, whole: Whole | None = None) -> Tensor:
        return first(logits, target, whole) + second(logits, target, whole)

    return both


LOSSES: Final[dict[str, Loss]] = {
    "ce": cross_entropy,
    "dice": dice,
    "ce+dice": _sum(cross_entropy, dice),
    "gce+dice": _sum(forgiving_cross_entropy, dice),
}
"""Loss by name."""


def choose_loss(name: str) -> Loss:
    """The loss of that name; raises `InvalidOption` with the nearest known names."""
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]
