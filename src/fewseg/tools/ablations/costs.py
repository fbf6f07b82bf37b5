"""Cost of a prediction: operations, time and memory, on images of noise (weights and images make no difference)."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fewseg.core.memory import live_tensor_bytes, peak_bytes
from fewseg.evaluation.fusion import Fusion, fused_support, segment_fused
from fewseg.models.methods import FewShotMethod

FOREGROUND = 1 / 3
"""Share of a support image, its middle rows, that is foreground where time and memory are measured."""

_Inputs = tuple[Tensor, Tensor, Tensor]


def noise(method: FewShotMethod, shots: int, foreground: float = FOREGROUND) -> _Inputs:
    """Query (1, 3, s, s), support images (1, n, 3, s, s) and masks (1, n, s, s) for a method."""
    side = method.config.image_size
    generator = torch.Generator().manual_seed(0)
    query, images = torch.randn(1, 3, side, side, generator=generator), torch.randn(1, shots, 3, side, side)
    masks = torch.zeros(1, shots, side, side)
    rows = round(side * foreground)
    masks[..., (side - rows) // 2 : (side - rows) // 2 + rows, :] = 1
    return query.to(method.device), images.to(method.device), masks.to(method.device)


@torch.no_grad()
def multiply_adds(method: FewShotMethod) -> tuple[float, float]:
    """Multiply-adds, in thousand millions, of support and query with one shot, and the backbone's share of them.

    Counted by torch's counter as the computation runs, in convolutions and matrix products, with all the support as
    foreground, so that what a method may skip elsewhere is in it. Half of what the counter calls floating-point
    operations. Attention is counted in full: no fused kernel, whose padding would count too.
    """
    inputs = noise(method, 1, foreground=1.0)
    config = method.config
    if hasattr(config, "implementation"):
        method.config = dataclasses.replace(config, implementation="reference")
    try:
        whole = _counted(lambda: method(*inputs))
    finally:
        method.config = config
    query = inputs[0].to(method.dtype)
    return whole, _counted(lambda: method.backbone(query)) + _counted(lambda: method.backbone(query))


def _counted(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return float(counter.get_total_flops()) / 2e9


@torch.inference_mode()
def seconds(method: FewShotMethod, shots: int, fusion: Fusion = "one-pass", repeats: int = 5) -> tuple[float, float]:
    """Median time of support and query together, and of the query alone once the support is encoded."""
    query, images, masks = noise(method, shots)
    support = fused_support(method, images, masks, fusion)
    both = _timed(method, lambda: segment_fused(method, query, fused_support(method, images, masks, fusion)), repeats)
    return both, _timed(method, lambda: segment_fused(method, query, support), repeats)


def _timed(method: FewShotMethod, run: Callable[[], Tensor], repeats: int) -> float:
    run()  # what happens the first time only is not measured
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        run().cpu()  # copying waits for a GPU to finish
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@torch.inference_mode()
def peak_megabytes(method: FewShotMethod, shots: int, fusion: Fusion = "one-pass") -> float:
    """MiB that support and query together add at most to weights and inputs.

    On a GPU as its allocator saw it. Elsewhere the tensors that are alive together are counted, which leaves out what
    kernels use within: the same number on every machine.
    """
    query, images, masks = noise(method, shots)

    def run() -> None:
        segment_fused(method, query, fused_support(method, images, masks, fusion))

    run()  # folds batch norms, picks kernels: once, not for every query
    peak = peak_bytes(run, method.device) if method.device.type == "cuda" else live_tensor_bytes(run)
    return peak / 2**20
