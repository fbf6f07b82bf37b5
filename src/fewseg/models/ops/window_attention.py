"""Windows of a map, which support window each query window looks at, and the attention over both (SCCAN).

Maps are (B, H, W, C), channels last; windows (B, n, T, C) in row-major order, T = window² tokens in row-major order.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import unknown
from fewseg.models.ops.cosine import FLOOR, unit

WindowImplementation = Literal["auto", "reference", "streaming"]

PROTOTYPE_FLOOR = 5e-4
"""Added to the foreground that a support prototype is divided by, as released."""


def partition(x: Tensor, window: int, padding: int = 0) -> Tensor:
    """(B, H, W, C), zero-padded on every side, to windows (B, n, window², C)."""
    x = F.pad(x, (0, 0, padding, padding, padding, padding))
    b, h, w, c = x.shape
    x = x.reshape(b, h // window, window, w // window, window, c)
    return x.transpose(2, 3).reshape(b, -1, window * window, c)


def unite(windows: Tensor, window: int, size: tuple[int, int], padding: int = 0) -> Tensor:
    """The inverse of `partition`: windows to (B, *size, C), padding cut off."""
    h, w = size[0] + 2 * padding, size[1] + 2 * padding
    x = windows.reshape(windows.shape[0], h // window, w // window, window, window, -1)
    x = x.transpose(2, 3).reshape(windows.shape[0], h, w, -1)
    return x[:, padding : h - padding, padding : w - padding]


def window_prototypes(windows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean feature of each window's foreground, and whether it has any.

    Args:
        windows: (B, n, T, C).  mask: (B, n, T) foreground values in [0, 1].

    Returns:
        (B, n, C) and (B, n), both float32; 1 where the mask's sum is not zero.
    """
    weights = mask.float().unsqueeze(-1)
    area = weights.sum(-2)
    return (windows.float() * weights).sum(-2) / (area + PROTOTYPE_FLOOR), (area.squeeze(-1) > 0).float()


@torch.no_grad()
def align(query: Tensor, support: Tensor, foreground: Tensor) -> Tensor:
    """Index (B, n) of the support window that each query window looks at: the most similar one with foreground.

    Where no support window has any, or of equals, the first. Float32 throughout: the best two are often close.

    Args:
        query: (B, n, C) prototypes.  support: (B or 1, m, C) prototypes.  foreground: (B or 1, m), 0 or 1.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, support = query.float(), support.float()
        lengths = query.norm(dim=-1).unsqueeze(-1) * support.norm(dim=-1).unsqueeze(-2)
        cosines = query @ support.mT / (lengths + FLOOR)
        return ((cosines + 1) / 2 * foreground.float().unsqueeze(-2)).argmax(-1)


def take(windows: Tensor, index: Tensor) -> Tensor:
    """Windows (B or 1, m, ...) in the order of `index` (B, n), as (B, n, ...)."""
    b, m = windows.shape[:2]
    if b > 1:
        index = index + m * torch.arange(b, device=index.device).unsqueeze(1)
    return windows.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, index.shape)


def self_calibrated_attention(
    query: Tensor,
    own: tuple[Tensor, Tensor] | None,
    support: tuple[Tensor, Tensor],
    *,
    cosine: bool = True,
    implementation: WindowImplementation = "auto",
) -> Tensor:
    """One softmax over a query window's own tokens and those of the support window it was aligned with.

    Args:
        query: (B, n, heads, T, d) projected query tokens.
        own: keys and values of the same windows, shaped like `query`; None leaves this half out (which makes it the
            ordinary attention of windows, with `cosine` off).
        support: keys and values of the aligned windows; with `cosine` the keys have length one (`unit`).
        cosine: compare with the support by cosine, without any factor, instead of by scaled dot product.
        implementation: `reference` materialises the scores (fastest on CPUs), `streaming` never does (fused kernels of
            GPUs), `auto` chooses by device.

    Returns:
        (B, n, heads, T, d).
    """
    if implementation not in get_args(WindowImplementation):
        raise unknown("attention implementation", implementation, get_args(WindowImplementation))
    scaled = query * query.shape[-1] ** -0.5
    towards_support = unit(query, -1) if cosine else scaled
    streaming = implementation == "streaming" or (implementation == "auto" and query.is_cuda)
    if own is None:
        return _streaming(towards_support, *support) if streaming else _weigh(towards_support @ support[0].mT, support)
    if not streaming:
        scores = torch.cat([scaled @ own[0].mT, towards_support @ support[0].mT], -1)
        return _weigh(scores, own, support)
    # The two halves compare different queries: twice the width, where each key is zero in the other half's part.
    width = query.shape[-1]
    keys = torch.cat([F.pad(own[0], (0, width)), F.pad(support[0], (width, 0))], -2)
    values = F.pad(torch.cat([own[1], support[1]], -2), (0, width))
    return _streaming(torch.cat([scaled, towards_support], -1), keys, values)[..., :width]


def _weigh(scores: Tensor, *halves: tuple[Tensor, Tensor]) -> Tensor:
    return scores.softmax(-1) @ torch.cat([value for _, value in halves], -2)


def _streaming(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # Batch and windows as one dimension: the fused kernels want four.
    q, k, v = (x.flatten(0, 1) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0).unflatten(0, query.shape[:2])
