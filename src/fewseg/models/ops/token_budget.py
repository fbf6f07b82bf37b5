"""Normalising the support to a fixed number of foreground and of background tokens (DCAMA, Table S5)."""

from __future__ import annotations

import torch
from torch import Tensor


def budget_tokens(tokens: Tensor, values: Tensor, budget: int) -> tuple[Tensor, Tensor]:
    """`budget` foreground tokens (value of at least 0.5) and as many background tokens of each image.

    Evenly spaced along the token order, so nothing is drawn at random; a side with fewer tokens repeats them, a side
    with none takes the tokens with the nearest values.

    Args:
        tokens: (B, N, C).  values: (B, N) mask values in [0, 1].

    Returns:
        (B, 2 * budget, C) and (B, 2 * budget): foreground first.
    """
    chosen = torch.stack([_choose(v, budget) for v in values])
    picked = torch.gather(tokens, 1, chosen.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
    return picked, torch.gather(values, 1, chosen)


def _choose(values: Tensor, budget: int) -> Tensor:
    sides: list[Tensor] = []
    for wanted in (values >= 0.5, values < 0.5):
        indices = wanted.nonzero().flatten()
        if len(indices) == 0:
            extreme = values.max() if not sides else values.min()
            indices = (values == extreme).nonzero().flatten()
        spaced = torch.linspace(0, len(indices) - 1, budget, device=values.device).round().long()
        sides.append(indices[spaced])
    return torch.cat(sides)
