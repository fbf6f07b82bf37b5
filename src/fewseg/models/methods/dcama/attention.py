"""DCAMA's projections to queries and keys, class-balanced aggregated masks and their log-odds."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COSINE_TEMPERATURE = 10.0
"""Initial value of the learnt factor on cosines, without which a softmax over them would be almost uniform."""


class ScaleAttention(nn.Module):
    """Query and support projections of one scale, shared by its blocks of the same width."""

    def __init__(self, widths: set[int], heads: int, cosine: bool, identity_start: bool) -> None:
        """`widths`: channels of the blocks' maps; the rest as in `AggregationConfig`.

        Both projections start equal, as in the released code: tokens are compared, not only mixed, from the first step.
        """
        super().__init__()
        self.heads = heads
        self.query = nn.ModuleDict({str(w): self._projection(w, identity_start) for w in sorted(widths)})
        self.support = copy.deepcopy(self.query)
        self.temperature: nn.Parameter | None = None
        if cosine:
            self.temperature = nn.Parameter(torch.full((heads,), math.log(COSINE_TEMPERATURE)))

    def width(self, channels: int) -> int:
        """Channels of the queries and keys of maps with `channels` channels: rounded up to a multiple of the heads."""
        return -(-channels // self.heads) * self.heads

    def _projection(self, width: int, identity_start: bool) -> nn.Linear:
        layer = nn.Linear(width, self.width(width))
        if identity_start:
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
        return layer

    def project_query(self, tokens: Tensor) -> Tensor:
        """(..., N, C) to queries; with cosine attention the temperature is already in them."""
        projected = self.query[str(tokens.shape[-1])](tokens)
        if self.temperature is None:
            return projected * (projected.shape[-1] // self.heads) ** -0.5
        unit = self._unit_heads(projected)
        return (unit * self.temperature.exp().unsqueeze(-1)).flatten(-2)

    def project_support(self, tokens: Tensor) -> Tensor:
        """(..., N, C) to keys."""
        projected = self.support[str(tokens.shape[-1])](tokens)
        return projected if self.temperature is None else self._unit_heads(projected).flatten(-2)

    def _unit_heads(self, projected: Tensor) -> Tensor:
        return F.normalize(projected.unflatten(-1, (self.heads, -1)), dim=-1, eps=1e-6)


_FLOOR = 1e-8
"""Added to both shares of a class-balanced mask; small against the share of one token among thousands."""


def balanced(attention: Tensor, values: Tensor) -> Tensor:
    """Aggregated masks (B, N, L) as if foreground and background had equally many support tokens.

    `attention` (B, N, 2L) is the attention F that each query token pays to all foreground tokens, of every label, then
    B, that to all background tokens, of every label. The aggregated mask is F / (F + B), the class-balanced one
    (F / f) / (F / f + B / b), where f and b are the numbers of tokens: the sums of the mask `values` (b, M, 2L).
    """
    foreground, background = (attention.float() / (values.float().sum(1, keepdim=True) + 1e-4)).chunk(2, -1)
    # Both are zero where dropout has left a token no attention at all: its value is then one half.
    return ((foreground + _FLOOR) / (foreground + background + 2 * _FLOOR)).to(attention.dtype)


def log_odds(masks: Tensor, limit: float) -> Tensor:
    """Log-odds of aggregated masks, clamped to `limit` away from 0 and 1."""
    return torch.logit(masks.float(), eps=limit).to(masks.dtype)
