"""Roofline: the rate at which this machine multiplies matrices, which bounds every computation made of products."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from fewseg.core.devices import PRECISIONS
from fewseg_bench.machine import synchronise

SIDES: Final = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192), "mps": (2048, 4096)}
"""Sides of the square matrices that are tried, by device, small to large; the quickest counts."""

LONGEST: Final = 2.0
"""Seconds that a product after the first may take: bf16 on a CPU without instructions for it needs minutes."""


def matrix_product(device: torch.device, dtype: torch.dtype, side: int) -> Callable[[], Tensor]:
    """A product of two square matrices, written to a third that is there already."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(side, side, generator=generator).to(device, dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out)


def product_flops(side: int) -> float:
    """Floating-point operations of such a product: a multiplication and an addition for each of side³ terms."""
    return 2.0 * side**3


def matrix_products(device: torch.device, dtype: torch.dtype) -> dict[int, Callable[[], Tensor]]:
    """Side to product, to be measured beside what it limits; none that the one before shows to be too slow."""
    found: dict[int, Callable[[], Tensor]] = {}
    for side in SIDES.get(device.type, SIDES["cpu"]):
        if found:
            before = max(found)
            if _seconds(found[before], device) * product_flops(side) / product_flops(before) > LONGEST:
                break
        found[side] = matrix_product(device, dtype, side)
    return found


def roofline_contenders(device: torch.device, precisions: Iterable[str]) -> dict[str, Callable[[], Tensor]]:
    """The products of some precisions, and of float32, under names that `roofline` knows."""
    return {
        f"roofline/{precision}/{side}": product
        for precision in dict.fromkeys(("float32", *precisions))
        for side, product in matrix_products(device, PRECISIONS[precision]).items()
    }


def roofline(taken: Mapping[str, list[float]], precision: str) -> float:
    """Operations a second of the matrix products that were measured, in a precision or in float32, the larger.

    Where bf16 is slower, float32 bounds it too: its results are at least as good.
    """
    found = []
    for counted_flops in {precision, "float32"}:
        start = f"roofline/{counted_flops}/"
        found.append(throughput({int(n.removeprefix(start)): s for n, s in taken.items() if n.startswith(start)}))
    return max(found)


def throughput(seconds: dict[int, list[float]]) -> float:
    """Operations a second: the best that any product reached, as a limit should be."""
    return max(product_flops(side) / min(taken) for side, taken in seconds.items())


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    """The better of two calls: what happens the first time only is in one of them."""
    taken = []
    for _ in range(2):
        synchronise(device)
        started = time.perf_counter()
        run()
        synchronise(device)
        taken.append(time.perf_counter() - started)
    return min(taken)
