"""DCAMA's projections to queries and keys, its balanced votes and their log-odds."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

COSINE_TEMPERATURE = 10.0
"""Start value of the learnt factor on cosines: dot products of unit vectors need one to make a peaked softmax."""


class ScaleAttention(nn.Module):
    """The two projections of one scale, shared by its blocks; blocks of different widths have their own pair."""

    def __init__(self, widths: set[int], heads: int, cosine: bool, identity_start: bool) -> None:
        """`widths`: of the blocks' maps; the rest as in `DCAMAConfig`."""
        super().__init__()
        self.heads = heads
        self.query = nn.ModuleDict({str(w): self._projection(w, identity_start) for w in sorted(widths)})
        self.support = nn.ModuleDict({str(w): self._projection(w, identity_start) for w in sorted(widths)})
        self.temperature: nn.Parameter | None = None
        if cosine:
            self.temperature = nn.Parameter(torch.full((heads,), math.log(COSINE_TEMPERATURE)))

    def width(self, channels: int) -> int:
        """Of the queries and keys of maps of so many channels: the next that the heads divide."""
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
        projected = self.support[str(tokens.shape[-1])](tokens)
        return projected if self.temperature is None else self._unit_heads(projected).flatten(-2)

    def _unit_heads(self, projected: Tensor) -> Tensor:
        return F.normalize(projected.unflatten(-1, (self.heads, -1)), dim=-1, eps=1e-6)


_NEITHER = 1e-8
"""Added to both shares of a balanced vote; small against one token's among thousands."""


def balanced(shares: Tensor, sides: Tensor) -> Tensor:
    """What votes would be if foreground and background had equally many support tokens.

    With F and B the attention that a query token gives to all foreground and all background tokens of a label, `shares`
    (B, N, 2L: F of every label, then B of every label), the vote is F / (F + B), the balanced one
    (F / f) / (F / f + B / b), where f and b are the numbers of tokens, the sums of `sides` (b, M, 2L). Returns
    (B, N, L).
    """
    ahead, behind = (shares.float() / (sides.float().sum(1, keepdim=True) + 1e-4)).chunk(2, -1)
    # Both are zero where dropout has left a token no attention at all: it then votes for neither side.
    return ((ahead + _NEITHER) / (ahead + behind + 2 * _NEITHER)).to(shares.dtype)


def log_odds(votes: Tensor, limit: float) -> Tensor:
    """Of votes kept `limit` away from 0 and 1."""
    return torch.logit(votes.float(), eps=limit).to(votes.dtype)
