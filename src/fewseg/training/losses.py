"""What training minimises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.errors import unknown
from fewseg.types import IGNORE


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the pixels that count; 0 where none does.

    Args:
        logits: (B, 2, H, W).  target: (B, H, W), int64 of 0, 1 and 255 (ignored).
    """
    total = F.cross_entropy(logits.float(), target, ignore_index=IGNORE, reduction="sum")
    return total / (target != IGNORE).sum().clamp(min=1)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """SCCAN's Dice loss: 1 - 2 Σpt / (Σp² + Σt²) of sigmoid(logits), summed over the two channels, batch mean.

    Ignored pixels have t = 0 in both channels while p stays, as in the released code. Shapes as in `cross_entropy`.
    """
    probability = logits.float().sigmoid()
    truth = torch.stack([target == 0, target == 1], 1).to(probability.dtype)
    both = (probability * truth).flatten(2).sum(2)
    squares = (probability.square() + truth).flatten(2).sum(2)
    return (1 - 2 * both / squares.clamp(min=1e-8)).sum(1).mean()


def _sum(logits: Tensor, target: Tensor) -> Tensor:
    return cross_entropy(logits, target) + dice(logits, target)


LOSSES: Final[dict[str, Callable[[Tensor, Tensor], Tensor]]] = {"ce": cross_entropy, "dice": dice, "ce+dice": _sum}
"""Loss by name."""


def choose_loss(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of that name; raises `InvalidOption` with the nearest known names."""
    if name not in LOSSES:
        raise unknown("loss", name, LOSSES)
    return LOSSES[name]
