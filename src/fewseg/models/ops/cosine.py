"""Vectors of length one, for cosines that are matrix products."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

FLOOR: Final = 1e-7
"""SCCAN's floor under the lengths that a cosine divides by."""


def unit(x: Tensor, dim: int) -> Tensor:
    """`x` scaled to length one along `dim`; zeros stay zeros. Lengths in float32: half precision has no such floor."""
    exact = x.float()
    length = torch.linalg.vector_norm(exact, dim=dim, keepdim=True)
    return (exact / length.clamp(min=FLOOR)).to(x.dtype)
