"""Group normalisation of channels-last tensors, in place and in full precision.

torch's own kernel for this layout accumulates plain sums on a CPU: over the 400 000 positions of a 4-D tensor it is
wrong by 5e-4 in float32, and it holds the tensor twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK_VALUES = 2**18
"""Values that one step of a sum takes: 1 MiB in float32, so that they stay in the processor's cache."""


def group_norm_relu(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """ReLU of the group norm of x (B, N, M, C) over both N and M; *overwrites x* where gradients are off.

    Moments are taken in float32 at least. Each item of a batch has its own.
    """
    whole = torch.is_grad_enabled() or torch.compiler.is_exporting()  # the sums' steps would fix the batch
    mean, variance = _moments_for_backward(x, groups) if whole else _moments(x, groups)
    width = x.shape[-1] // groups
    scale = (variance + eps).rsqrt().repeat_interleave(width, 1) * weight
    shift = bias - mean.repeat_interleave(width, 1) * scale
    scale, shift = (s.to(x.dtype)[:, None, None] for s in (scale, shift))
    if torch.is_grad_enabled():
        return F.relu(x * scale + shift)
    return x.mul_(scale).add_(shift).relu_()


def _moments_for_backward(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and variance (B, groups); keeps nothing but x for the backward pass."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (groups, -1))
    variance, mean = torch.var_mean(wide, (1, 2, 4), correction=0)
    return mean, variance


def _moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The same, ten times as fast on a CPU: sums over rows of all M * C values at once, then within the groups."""
    mean = _group_mean(x, groups, (rows.sum(1) for rows in _row_chunks(x)))
    centre = mean.repeat_interleave(x.shape[-1] // groups, 1).repeat(1, x.shape[2])[:, None]
    squares = ((rows - centre).square_().sum(1) for rows in _row_chunks(x))
    return mean, _group_mean(x, groups, squares)


def _row_chunks(x: Tensor) -> Iterator[Tensor]:
    """Some rows (B, n, M * C) at a time, in float32 at least."""
    rows = x.flatten(2)
    wide = torch.promote_types(x.dtype, torch.float32)
    for some in rows.split(max(1, CHUNK_VALUES // (x.shape[0] * rows.shape[2])), 1):
        yield some.to(wide)


def _group_mean(x: Tensor, groups: int, sums: Iterator[Tensor]) -> Tensor:
    """(B, groups) from sums (B, M * C) over some rows each."""
    total = torch.stack(list(sums)).sum(0).unflatten(1, (x.shape[2], groups, -1))
    return total.sum((1, 3)) / (x[0].numel() // groups)
