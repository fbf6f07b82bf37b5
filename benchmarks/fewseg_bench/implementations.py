"""Every implementation of DCAMA's aggregation that a device has, on the shapes of a model's query."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor

from fewseg.core.devices import PRECISIONS
from fewseg.core.memory import fits, peak_source
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.ops.mask_aggregation import Implementation, aggregate_masks, implementations_for
from fewseg_bench.baseline import baseline_aggregation
from fewseg_bench.flops import attention_flops
from fewseg_bench.models import bench_model, build
from fewseg_bench.names import BASELINE_AGGREGATION
from fewseg_bench.peak_memory import Pieces, peak_mebibytes, together
from fewseg_bench.queries import score_bytes
from fewseg_bench.results import Row
from fewseg_bench.roofline import roofline, roofline_contenders
from fewseg_bench.settings import BenchSettings
from fewseg_bench.timing import interleaved, summary

VALUES: Final = (1, 4)
"""Masks that are aggregated at once: one label, and four labels taught on the same images."""


@dataclass(frozen=True)
class Shape:
    """Sizes of one aggregation."""

    queries: int
    keys: int
    width: int
    heads: int


def shapes(method: MaskAggregation, shots: int) -> list[Shape]:
    """Sizes of the aggregation of every attended block of a query."""
    config, found = method.config, []
    for block in method.backbone.blocks:
        if block.scale in config.attention_scales:
            positions = math.ceil(config.image_size / block.stride) ** 2
            width = -(-block.channels // config.heads) * config.heads
            found.append(Shape(positions, shots * positions, width, config.heads))
    return found


def implementation_rows(settings: BenchSettings, name: str, shots: int) -> list[Row]:
    """Time, memory and difference of every implementation, by precision and number of values; DCAMA only."""
    method = build(bench_model(name), settings.size)
    if not isinstance(method, MaskAggregation):
        return []
    pairs = [(precision, values) for precision in settings.precisions for values in VALUES]
    return [row for precision, values in pairs for row in _rows(settings, name, method, shots, precision, values)]


def _rows(
    settings: BenchSettings, name: str, method: MaskAggregation, shots: int, precision: str, values: int
) -> Iterator[Row]:
    device, dtype = settings.torch_device, PRECISIONS[precision]
    works = dict(_works(method, shots, values, device, dtype, settings))
    exact = _exact(method, shots, values, device, dtype) if BASELINE_AGGREGATION in works else None
    with torch.inference_mode():
        contenders = {**roofline_contenders(device, (precision,)), **works}
        taken = interleaved(contenders, repeats=settings.repeats, device=device, clock=settings.clock)
    most, base = roofline(taken, precision), taken.get(BASELINE_AGGREGATION)
    flops = sum(attention_flops(s.queries, s.keys, s.width, s.heads, values) for s in shapes(method, shots))
    peaks: dict[str, float | None] = {}
    if settings.memory:
        measure = functools.partial(_memory, settings, name, shots, values, precision)
        peaks = together({work: functools.partial(measure, work) for work in works})
    about = {"model": name, "about": bench_model(name).about, "size": method.config.image_size, "shots": shots}
    for work, run in works.items():
        seconds = summary(taken[work])
        yield {
            **about,
            "precision": precision,
            "values": values,
            "implementation": work,
            **seconds,
            "faster": None if base is None else statistics.median(base) / seconds["seconds"],
            "operations": flops,
            "limit": most,
            "share_of_limit": flops / most / seconds["seconds"],
            "memory_mib": peaks.get(work),
            "memory_how": peak_source(device) if settings.memory else None,
            "difference": None if exact is None else (run().float() - exact).abs().max().item(),
        }


def _works(
    method: FewShotMethod, shots: int, values: int, device: torch.device, dtype: torch.dtype, settings: BenchSettings
) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Name to a call that aggregates for all blocks; what would not fit into memory is left out."""
    assert isinstance(method, MaskAggregation)
    inputs = [_noise(shape, values, device, dtype) for shape in shapes(method, shots)]
    heads = method.config.heads
    roomy = fits(1.5 * score_bytes(method, shots, dtype), device)
    if roomy:
        yield BASELINE_AGGREGATION, lambda: _all([baseline_aggregation(q, k, v, heads) for q, k, v in inputs])
    for implementation in implementations_for(device, dtype):
        if roomy or implementation != "reference":
            yield implementation, functools.partial(_aggregate, inputs, heads, implementation)


def _exact(method: MaskAggregation, shots: int, values: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """The definition in float32, of the same rounded inputs."""
    found = []
    for shape in shapes(method, shots):
        q, k, v = (t.float() for t in _noise(shape, values, device, dtype))
        found.append(baseline_aggregation(q, k, v, shape.heads))
    return _all(found)


def _aggregate(inputs: list[tuple[Tensor, Tensor, Tensor]], heads: int, implementation: Implementation) -> Tensor:
    return _all([aggregate_masks(q, k, v, heads=heads, scale=1.0, implementation=implementation) for q, k, v in inputs])


def _all(aggregated: list[Tensor]) -> Tensor:
    return torch.cat([mask.flatten() for mask in aggregated])


def _noise(shape: Shape, values: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled queries, keys and values in [0, 1]; scores of about the size of a trained model's."""
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(1, shape.queries, shape.width, generator=rng) * (shape.width / shape.heads) ** -0.5
    k = torch.randn(1, shape.keys, shape.width, generator=rng)
    v = torch.rand(1, shape.keys, values, generator=rng)
    return q.to(device, dtype), k.to(device, dtype), v.to(device, dtype)


def _memory(
    settings: BenchSettings, name: str, shots: int, values: int, precision: str, implementation: str
) -> float | None:
    found = peak_mebibytes(
        "implementations:memory_pieces",
        settings.torch_device,
        threads=settings.threads,
        model=name,
        size=settings.size,
        shots=shots,
        values=values,
        precision=precision,
        implementation=implementation,
    )
    return found.get("op")


def memory_pieces(
    device: torch.device, *, model: str, size: int | None, shots: int, values: int, precision: str, implementation: Any
) -> Pieces:
    """What `peak` measures: one implementation."""
    method, dtype = build(bench_model(model), size), PRECISIONS[precision]
    assert isinstance(method, MaskAggregation)
    inputs, heads = [_noise(shape, values, device, dtype) for shape in shapes(method, shots)], method.config.heads
    if implementation == BASELINE_AGGREGATION:
        yield "op", lambda: _all([baseline_aggregation(q, k, v, heads) for q, k, v in inputs])
    else:
        yield "op", functools.partial(_aggregate, inputs, heads, implementation)
