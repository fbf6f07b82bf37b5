"""The aggregation some scores at a time, in plain torch operations; its gradient by computing the scores again.

What the forward pass keeps for the backward pass is one number a query and head. The gradient needs three products of
the full width (the scores again, of the queries, of the keys), where that of a fused kernel with padded values takes
five: a product with a handful of value columns costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewseg.models.ops.mask_aggregation.arguments import Arguments

CPU_SCORE_BYTES = 2**22
"""Scores that a CPU holds at once: about what stays in its cache."""

GPU_SCORE_BYTES = 2**28
"""Scores that other devices hold at once: enough to keep them busy."""


class Forward(NamedTuple):
    """What a forward pass gives: each head's own result, and the log of each query's denominator."""

    out: Tensor
    """(B, heads, Nq, V), float32 or float64."""
    lse: Tensor
    """(B, heads, Nq)"""


class Tile(NamedTuple):
    """Which scores are computed together."""

    item: int
    heads: slice
    queries: slice


def score_bytes(device: torch.device) -> int:
    """Memory for scores on a device where the caller sets none."""
    return CPU_SCORE_BYTES if device.type == "cpu" else GPU_SCORE_BYTES


def tiles(a: Arguments, memory: int) -> Iterator[Tile]:
    """All scores in tiles of at most `memory` bytes, or of one query's scores if those are more."""
    b, heads, nq, _ = a.query.shape
    rows = max(1, memory // (a.key.shape[2] * _exact(a.query).itemsize))
    count, some = (min(heads, rows // nq), nq) if rows >= nq > 0 else (1, rows)
    for item in range(b):
        for head in range(0, heads, count):
            for first in range(0, nq, some):
                yield Tile(item, slice(head, head + count), slice(first, first + some))


def _exact(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)


def _item(t: Tensor, item: int) -> Tensor:
    return t[item if t.shape[0] > 1 else 0]


def _scores(a: Arguments, tile: Tile) -> Tensor:
    """(heads, queries, Nk), float32 at least."""
    q = a.query[tile.item, tile.heads, tile.queries] * a.scale
    return (q @ _item(a.key, tile.item)[tile.heads].mT).to(_exact(q))


class Dropout:
    """Which weights stay, a tile after the other: the same again for the same seed and tiles."""

    def __init__(self, probability: float, seed: int, device: torch.device) -> None:
        # 16 random bits a weight; four weights share a number, which is several times as fast as one draw each.
        self.threshold = min(round(probability * 2**16), 2**16 - 1)
        self.factor = 1 / (1 - self.threshold / 2**16)
        self.generator = torch.Generator(device).manual_seed(seed)

    def keep(self, shape: torch.Size) -> Tensor:
        """True for weights that stay."""
        drawn = torch.empty(-(-shape.numel() // 4), dtype=torch.int64, device=self.generator.device)
        drawn.random_(-(2**63), None, generator=self.generator)
        return (drawn.view(torch.int16)[: shape.numel()] >= self.threshold - 2**15).view(shape)


def _dropout(a: Arguments, seed: int) -> Dropout | None:
    return Dropout(a.dropout, seed, a.query.device) if a.dropout > 0 else None


def forward(a: Arguments, memory: int | None = None, seed: int = 0) -> Forward:
    """Results and denominators, without a graph."""
    with torch.no_grad(), torch.autocast(a.query.device.type, enabled=False):
        exact = _exact(a.query)
        out = a.query.new_empty(*a.query.shape[:3], a.values.shape[2], dtype=exact)
        lse = a.query.new_empty(a.query.shape[:3], dtype=exact)
        values, dropout = a.values.to(exact), _dropout(a, seed)
        for tile in tiles(a, memory or score_bytes(a.query.device)):
            weights = _scores(a, tile)
            most = weights.amax(-1, keepdim=True)
            weights.sub_(most).exp_()
            total = weights.sum(-1, keepdim=True)
            lse[tile.item, tile.heads, tile.queries] = (most + total.log()).squeeze(-1)
            if dropout is not None:
                weights.mul_(dropout.keep(weights.shape))
                total /= dropout.factor
            out[tile.item, tile.heads, tile.queries] = weights @ _item(values, tile.item) / total
        return Forward(out, lse)


def backward(
    a: Arguments, kept: Forward, gradient: Tensor, wanted: tuple[bool, ...], memory: int | None = None, seed: int = 0
) -> list[Tensor | None]:
    """Gradients of query, key and values, None where not wanted; `gradient` (B, heads, Nq, V) is that of `kept.out`."""
    exact = _exact(a.query)
    into = [torch.zeros_like(t, dtype=exact) if want else None for t, want in zip(a[:3], wanted, strict=True)]
    to_query, to_key, to_values = into
    gradient, values, dropout = gradient.to(exact), a.values.to(exact), _dropout(a, seed)
    mean = (kept.out * gradient).sum(-1, keepdim=True)  # what all weights of a query have in common
    for tile in tiles(a, memory or score_bytes(a.query.device)):
        here = (tile.item, tile.heads, tile.queries)
        weights = _scores(a, tile).sub_(kept.lse[here].unsqueeze(-1)).exp_()
        change = gradient[here] @ _item(values, tile.item).mT
        if dropout is not None:
            keep = dropout.keep(weights.shape)
            change.mul_(keep).mul_(dropout.factor)
        if to_values is not None:
            used = weights if dropout is None else (weights * keep).mul_(dropout.factor)
            _item(to_values, tile.item).add_((used.mT @ gradient[here]).sum(0))
        change.sub_(mean[here]).mul_(weights).mul_(a.scale)
        change = change.to(a.query.dtype)
        if to_query is not None:
            to_query[here] = (change @ _item(a.key, tile.item)[tile.heads]).to(exact)
        if to_key is not None:
            _item(to_key, tile.item)[tile.heads].add_(change.mT @ a.query[here])
    return [None if t is None else t.to(like.dtype) for t, like in zip(into, a[:3], strict=True)]


class _Aggregation(torch.autograd.Function):
    """Any forward pass with the tiled gradient."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, values: Tensor, run: Callable[[Arguments], Forward], rest: tuple[Any, ...]
    ) -> Tensor:
        scale, dropout, *_ = rest
        kept = run(Arguments(query.detach(), key.detach(), values.detach(), scale, dropout))
        ctx.save_for_backward(query, key, values, *kept)
        ctx.rest = rest
        return kept.out.mean(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, values, *kept = ctx.saved_tensors
        scale, dropout, memory, seed = ctx.rest
        heads = query.shape[1]
        each = (gradient / heads).unsqueeze(1).expand(-1, heads, -1, -1)
        with torch.autocast(query.device.type, enabled=False):
            arguments = Arguments(query, key, values, scale, dropout)
            grads = backward(arguments, Forward(*kept), each, ctx.needs_input_grad[:3], memory, seed)
        return (*grads, None, None)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def aggregate(a: Arguments, run: Callable[[Arguments], Forward] | None = None, memory: int | None = None) -> Tensor:
    """Mean over the heads, (B, Nq, V), with gradients where they are on; `run` computes the forward pass (tiles do by
    default, and must where there is dropout)."""
    seed = int(torch.randint(2**62, ())) if a.dropout > 0 else 0

    def tiled(arguments: Arguments) -> Forward:
        return forward(arguments, memory, seed)

    run = run or tiled
    if not a.needs_gradients:
        return run(a).out.mean(1)
    return _Aggregation.apply(a.query, a.key, a.values, run, (a.scale, a.dropout, memory, seed))
