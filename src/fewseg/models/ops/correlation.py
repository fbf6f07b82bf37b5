"""4-D correlation of two images, and centre-pivot 4-D convolution over it (HSNet, sections 4.1 and 4.2).

A correlation tensor has a query plane and a support plane. It is kept channels last, (B, hq, wq, hs, ws, C), so that a
convolution over the support plane needs no copy and one over the query plane copies whole channel vectors.

The 4-D tensor of a fine scale is what costs memory: 50 x 50 x 50 x 50 positions are 25 MB for every block. Nothing
needs it whole: `convolve_correlation` correlates a few positions at a time and convolves them at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

EPSILON = 1e-5
"""Added to the norms of the cosine, as in the release."""

CHUNK_VALUES = 2**20
"""Correlations that `convolve_correlation` holds at once: 4 MiB in float32."""


class PivotKernel(NamedTuple):
    """A centre-pivot kernel: the two planes through the centre of a 4-D kernel; all its other weights are zero."""

    query_weight: Tensor
    """(O, I, k, k), k odd; over the query plane."""
    query_bias: Tensor
    """(O,)"""
    support_weight: Tensor
    """(O, I, k, k); over the support plane."""
    support_bias: Tensor
    """(O,)"""
    stride: int
    """Over the support plane; the query plane keeps its size."""


def unit_maps(maps: Tensor) -> Tensor:
    """(B, C, h, w) over (norm + 1e-5), so that dot products are cosines. Norms in float32: halves lose the 1e-5."""
    norms = torch.linalg.vector_norm(maps, dim=1, keepdim=True, dtype=torch.promote_types(maps.dtype, torch.float32))
    return (maps / (norms + EPSILON)).to(maps.dtype)


def correlation(query: Sequence[Tensor], support: Sequence[Tensor]) -> Tensor:
    """Cosines clamped at zero of every pair of positions, whole: (B, hq, wq, hs, ws, L); equation 1.

    L unit maps (B, C, hq, wq) and (B, C, hs, ws); each block has its own C.
    """
    pairs = zip(query, support, strict=True)
    return F.relu(torch.stack([torch.einsum("bchw,bcij->bhwij", q, s) for q, s in pairs], -1))


def centre_pivot_reference(x: Tensor, kernel: PivotKernel) -> Tensor:
    """The definition: a full 4-D convolution, one offset at a time, with a kernel that is zero off the two planes.

    x (B, hq, wq, hs, ws, I) to (B, hq, wq, ceil(hs / stride), ceil(ws / stride), O).
    """
    size, stride = kernel.query_weight.shape[-1], kernel.stride
    centre = size // 2
    full = x.new_zeros(*kernel.query_weight.shape[:2], size, size, size, size)
    full[:, :, :, :, centre, centre] += kernel.query_weight
    full[:, :, centre, centre] += kernel.support_weight
    padded = F.pad(x, (0, 0, *(centre,) * 8))
    hq, wq, hs, ws = x.shape[1:5]
    out = (kernel.query_bias + kernel.support_bias).expand(*x.shape[:3], -(-hs // stride), -(-ws // stride), -1)
    for a, b, c, d in itertools.product(range(size), repeat=4):
        moved = padded[:, a : a + hq, b : b + wq, c : c + hs : stride, d : d + ws : stride]
        out = out + moved @ full[:, :, a, b, c, d].T
    return out


def centre_pivot_convolution(x: Tensor, kernel: PivotKernel) -> Tensor:
    """The same as two 2-D convolutions: over the support plane, and over the query plane at the positions kept.

    x (B, hq, wq, hs, ws, I) to (B, hq, wq, ceil(hs / stride), ceil(ws / stride), O).
    """
    b, hq, wq = x.shape[:3]
    out = _convolve(x.flatten(0, 2), kernel.support_weight, kernel.support_bias, kernel.stride)
    kept = x[:, :, :, :: kernel.stride, :: kernel.stride].permute(0, 3, 4, 1, 2, 5)
    hs, ws = kept.shape[1:3]
    over_query = _convolve(kept.flatten(0, 2), kernel.query_weight, kernel.query_bias)
    over_query = over_query.unflatten(0, (b, hs, ws)).permute(0, 3, 4, 1, 2, 5)
    return out.unflatten(0, (b, hq, wq)).add_(over_query)


def convolve_correlation(query: Sequence[Tensor], support: Sequence[Tensor], kernel: PivotKernel) -> Tensor:
    """`centre_pivot_convolution(correlation(query, support), kernel)`, the correlation never held whole.

    The two planes want different parts of it, so it is computed in two passes: all support positions for some query
    positions at a time, and all query positions for some of the support positions that the stride keeps. Support
    positions that the mask zeroed are not computed. With gradients on, each part is computed again in the backward
    pass. Support maps of batch 1 serve every query.
    """
    (hq, wq), stride = query[0].shape[-2:], kernel.stride
    kept = [s[..., ::stride, ::stride] for s in support]
    over_support = _parts(query, support, kernel.support_weight, kernel.support_bias, stride, _occupied(support))
    over_query = _parts(kept, query, kernel.query_weight, kernel.query_bias, 1, None)
    if torch.is_grad_enabled() or torch.compiler.is_exporting():
        out = torch.cat(list(over_support), 1) + torch.cat(list(over_query), 1).transpose(1, 2)
    else:
        out = _sum_in_place(over_support, over_query, hq * wq)
    return out.unflatten(2, kept[0].shape[-2:]).unflatten(1, (hq, wq))


def _occupied(maps: Sequence[Tensor]) -> Tensor | None:
    """Flat positions at which any map (B, C, h, w) is not zero; None for all of them."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined]
        return None  # a graph must not depend on this support's mask
    occupied = torch.stack([m.detach().abs().sum((0, 1)) != 0 for m in maps]).any(0).flatten()
    index = occupied.nonzero().squeeze(1)
    return None if len(index) == len(occupied) else index


def _sum_in_place(over_support: Iterator[Tensor], over_query: Iterator[Tensor], positions: int) -> Tensor:
    """Parts (B, some query positions, Ns, O) and (B, some support positions, Nq, O) to (B, Nq, Ns, O)."""
    out, start = torch.empty(0), 0
    for part in over_support:
        if start == 0:
            out = part.new_empty(part.shape[0], positions, *part.shape[2:])
        out[:, start : start + part.shape[1]] = part
        start += part.shape[1]
    start = 0
    for part in over_query:
        out[:, :, start : start + part.shape[1]] += part.transpose(1, 2)
        start += part.shape[1]
    return out


def _parts(
    near: Sequence[Tensor], far: Sequence[Tensor], weight: Tensor, bias: Tensor, stride: int, occupied: Tensor | None
) -> Iterator[Tensor]:
    """For some positions of the near maps at a time, their correlation with the far maps, convolved over those.

    Maps (B, C, h, w); parts (B, n, h' * w', O) that together cover the near positions in order.
    """
    size = far[0].shape[-2:]
    columns = [f.flatten(2) if occupied is None else f.flatten(2)[..., occupied] for f in far]
    # An exported graph leaves the batch open, so the number of parts cannot depend on it.
    batch = 1 if torch.compiler.is_exporting() else max(near[0].shape[0], far[0].shape[0])
    values = max(len(far), weight.shape[0] // stride**2) * size.numel()  # correlations or results, what is more
    count = max(1, CHUNK_VALUES // (batch * values))
    for some in zip(*(n.flatten(2).split(count, -1) for n in near), strict=True):
        args = (some, columns, size, occupied, weight, bias, stride)
        if torch.is_grad_enabled():
            yield checkpoint(_part, *args, use_reentrant=False, preserve_rng_state=False)
        else:
            yield _part(*args)


def _part(
    near: Sequence[Tensor],
    far: Sequence[Tensor],
    size: torch.Size,
    occupied: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    stride: int,
) -> Tensor:
    """Near (B, C, n) with far (B, C, the occupied positions of a plane of this size), convolved: (B, n, h' * w', O)."""
    cosines = F.relu(torch.stack([n.transpose(1, 2) @ f for n, f in zip(near, far, strict=True)], 2), inplace=True)
    if occupied is not None:
        cosines = cosines.new_zeros(*cosines.shape[:-1], size.numel()).index_copy_(-1, occupied, cosines)
    planes = cosines.unflatten(-1, size)
    out = _conv2d(planes.flatten(0, 1), weight, bias, stride)
    return out.flatten(2).transpose(1, 2).unflatten(0, planes.shape[:2])


def _convolve(planes: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    """2-D convolution of planes (N, h, w, I) to (N, h', w', O); the permuted view is torch's channels-last format."""
    return _conv2d(planes.contiguous().permute(0, 3, 1, 2), weight, bias, stride).permute(0, 2, 3, 1)


def _conv2d(planes: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """Padded convolution of planes (N, I, h, w), without the weights that on so small a plane meet padding alone.

    They add nothing, but torch's bfloat16 gradient on a CPU leaves in some of them what was in memory before.
    """
    centre = weight.shape[-1] // 2
    # The first output looks only ahead, the last, at a multiple of the stride, back as far as to the first position.
    (top, left), (bottom, right) = zip(
        *((min(centre, (n - 1) // stride * stride), min(centre, n - 1)) for n in planes.shape[-2:]), strict=True
    )
    near = weight[:, :, centre - top : centre + bottom + 1, centre - left : centre + right + 1]
    if (top, left) == (bottom, right):
        return F.conv2d(planes, near, bias, stride, (top, left))
    return F.conv2d(F.pad(planes, (left, right, top, bottom)), near, bias, stride)
