"""Attention whose value is a mask: softmax(Q Kᵀ) V with one value (or a few) a token, averaged over heads.

DCAMA equation 3. The scores of all query and support tokens are what costs memory (B x heads x Nq x Nk), and nothing
needs them: the streaming path gives the same numbers from a running softmax.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fewseg.errors import unknown

Implementation = Literal["auto", "reference", "streaming"]

CHUNK_SCORES = 2**24
"""Scores held at once where a fused kernel cannot be used (attention dropout): 64 MiB in float32."""


def aggregate_masks(
    query: Tensor,
    key: Tensor,
    values: Tensor,
    *,
    heads: int,
    scale: float | None = None,
    dropout: float = 0.0,
    implementation: Implementation = "auto",
) -> Tensor:
    """Attention-weighted mean of mask values, averaged over the heads.

    Args:
        query: (B, Nq, C) projected query tokens.
        key: (B, Nk, C) projected support tokens of all shots.
        values: (B, Nk) one mask value a support token, or (B, Nk, V) several masks at once.
        heads: attention heads; divides C.
        scale: factor on the dot products; 1/sqrt(C / heads) if not given.
        dropout: probability of dropping an attention weight (training only).
        implementation: `reference` materialises the scores, `streaming` never does, `auto` is streaming.

    Returns:
        (B, Nq) or (B, Nq, V), like `values`.
    """
    if implementation not in get_args(Implementation):
        raise unknown("aggregation implementation", implementation, get_args(Implementation))
    single = values.ndim == 2
    v = (values.unsqueeze(-1) if single else values).to(query.dtype)
    q, k = _split_heads(query, heads), _split_heads(key, heads)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if implementation == "reference":
        out = _reference(q, k, v, scale, dropout)
    elif dropout > 0:
        out = _chunked(q, k, v, scale, dropout)
    else:
        out = _fused(q, k, v, scale)
    return out.squeeze(-1) if single else out


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    b, n, c = tokens.shape
    return tokens.view(b, n, heads, c // heads).transpose(1, 2)


def _reference(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float) -> Tensor:
    """The definition, scores materialised."""
    weights = torch.softmax((q * scale) @ k.transpose(-2, -1), dim=-1)
    weights = F.dropout(weights, dropout, training=dropout > 0)
    return (weights @ v.unsqueeze(1)).mean(1)


def _fused(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """A fused kernel over values zero-padded to the head width (the kernels want equal widths)."""
    width, masks = q.shape[-1], v.shape[-1]
    if masks > width:
        q, k = F.pad(q, (0, masks - width)), F.pad(k, (0, masks - width))
    padded = F.pad(v, (0, max(width - masks, 0))).unsqueeze(1).expand(-1, q.shape[1], -1, -1)
    out = F.scaled_dot_product_attention(q, k, padded, scale=scale)
    return out[..., :masks].mean(1)


def _chunked(q: Tensor, k: Tensor, v: Tensor, scale: float, dropout: float) -> Tensor:
    """Some query rows at a time, recomputed in the backward pass: fused CPU kernels have no dropout."""
    rows = max(1, CHUNK_SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    if rows >= q.shape[2]:
        return _reference(q, k, v, scale, dropout)
    chunks = [checkpoint(_reference, part, k, v, scale, dropout, use_reentrant=False) for part in q.split(rows, dim=2)]
    return torch.cat(chunks, dim=1)
