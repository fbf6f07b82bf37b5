"""What this machine multiplies matrices at: no computation made of products can be quicker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

SIDES: Final = {"cpu": (1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}
"""Sides of the square matrices that are tried, by device; the quickest counts."""


def products(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], Tensor]:
    """A product of two square matrices, written to a third that is there already."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def operations_of(side: int) -> float:
    """Floating-point operations of such a product: a multiplication and an addition for each of side³ terms."""
    return 2.0 * side**3


def floor_contenders(device: torch.device, dtype: torch.dtype) -> dict[int, Callable[[], Tensor]]:
    """Side to product, to be measured beside what it limits."""
    return {side: products(device, dtype, side) for side in SIDES.get(device.type, SIDES["cpu"])}


def throughput(seconds: dict[int, list[float]]) -> float:
    """Operations a second: the best that any product reached, as a limit should be."""
    return max(operations_of(side) / min(taken) for side, taken in seconds.items())
