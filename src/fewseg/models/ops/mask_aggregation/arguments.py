"""What every implementation of the aggregation is given: tokens cut into heads, shapes checked."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fewseg.core.errors import InvalidOption, InvalidSupport


class Arguments(NamedTuple):
    """Views of the caller's tensors; nothing is copied but what autocast asks for."""

    query: Tensor
    """(B, heads, Nq, d)"""
    key: Tensor
    """(B or 1, heads, Nk, d)"""
    values: Tensor
    """(B or 1, Nk, V)"""
    scale: float
    dropout: float = 0.0

    @property
    def batch(self) -> int:
        return self.query.shape[0]

    @property
    def needs_gradients(self) -> bool:
        return torch.is_grad_enabled() and any(t.requires_grad for t in (self.query, self.key, self.values))

    def shared(self) -> Arguments:
        """With the support repeated over the batch as a view."""
        b = self.batch
        return self._replace(key=self.key.expand(b, -1, -1, -1), values=self.values.expand(b, -1, -1))


def prepare(query: Tensor, key: Tensor, values: Tensor, heads: int, scale: float | None, dropout: float) -> Arguments:
    """Check shapes and cut the heads. Raises `InvalidOption` and `InvalidSupport`."""
    if values.ndim == 2:
        values = values.unsqueeze(-1)
    _check(query, key, values, heads, dropout)
    if torch.is_autocast_enabled(query.device.type) and query.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key = query.to(dtype), key.to(dtype)
    elif key.dtype != query.dtype:
        raise InvalidOption(f"queries are {query.dtype}, keys {key.dtype}: give both in one precision")
    q, k = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key))
    return Arguments(q, k, values, q.shape[-1] ** -0.5 if scale is None else scale, dropout)


def _check(query: Tensor, key: Tensor, values: Tensor, heads: int, dropout: float) -> None:
    if query.ndim != 3 or key.ndim != 3 or values.ndim != 3:
        got = _shapes(query, key, values)
        raise InvalidOption(f"{got}: expected (B, Nq, C), (B, Nk, C) and (B, Nk) or (B, Nk, V)")
    if query.shape[2] != key.shape[2] or heads < 1 or query.shape[2] % heads or query.shape[2] == 0:
        raise InvalidOption(
            f"{_shapes(query, key, values)}, {heads} heads: expected equal widths that the heads divide"
        )
    if key.shape[1] != values.shape[1] or key.shape[1] == 0 or values.shape[2] == 0:
        got = _shapes(query, key, values)
        raise InvalidSupport(f"{got}: expected a value or more for every key, and at least one key")
    if any(t.shape[0] not in (1, query.shape[0]) for t in (key, values)):
        got = _shapes(query, key, values)
        raise InvalidSupport(f"{got}: expected as many supports as queries, or one for all of them")
    if not 0 <= dropout < 1:
        raise InvalidOption(f"dropout {dropout}: expected from 0 to below 1")


def _shapes(query: Tensor, key: Tensor, values: Tensor) -> str:
    return f"queries {tuple(query.shape)}, keys {tuple(key.shape)}, values {tuple(values.shape)}"
