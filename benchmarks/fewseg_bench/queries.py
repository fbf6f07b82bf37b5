"""The baseline implementation and fewseg's side by side."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from fewseg.core.devices import PRECISIONS
from fewseg.core.memory import fits, peak_source
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.hsnet import HSNet
from fewseg_bench.flops import flops_by_level
from fewseg_bench.models import bench_model, build
from fewseg_bench.names import BASELINE, OPTIMISED
from fewseg_bench.peak_memory import Pieces, peak_mebibytes, together
from fewseg_bench.results import Row
from fewseg_bench.roofline import roofline, roofline_contenders
from fewseg_bench.settings import BenchSettings
from fewseg_bench.timing import interleaved, summary
from fewseg_bench.variants import VARIANTS, Prepared, prepare_variant

Contender = tuple[str, str]
"""Variant and precision."""

BASE: Contender = (BASELINE, "float32")
"""What everything is compared with."""


def query_rows(settings: BenchSettings, name: str, shots: int) -> list[Row]:
    """All measurements of a model with so many shots: levels, variants and precisions, taking turns in one run."""
    device, model = settings.torch_device, bench_model(name)
    method = build(model, settings.size)
    cases = _cases(settings, method, shots)
    prepared = {case: prepare_variant(method, case[0], shots, device, PRECISIONS[case[1]]) for case in cases}
    with torch.inference_mode():
        agreement = _agreement(prepared, settings)
        taken = _timed(prepared, settings, device)
    peaks = {}
    if settings.memory:
        peaks = together({case: functools.partial(_peaks, settings, name, shots, case) for case in prepared})
    flops = flops_by_level(method, shots)
    about = {"model": name, "about": model.about, "size": method.config.image_size, "shots": shots}
    rows = []
    for level in settings.levels:
        for case, what in prepared.items():
            most, memory = roofline(taken, case[1]), peaks.get(case, {}).get(level)
            row = {**about, "level": level, "way": case[0], "precision": case[1], **_times(taken, level, case)}
            row |= {"operations": flops[level], "limit": most, "share_of_limit": flops[level] / most / row["seconds"]}
            row |= {"memory_mib": memory, "memory_how": peak_source(device) if settings.memory else None}
            rows.append({**row, "support_mib": what.support_bytes / 2**20, **agreement[_name(level, case)]})
    return rows


def _times(taken: dict[str, list[float]], level: str, case: Contender) -> Row:
    """Seconds of a case at a level, how many times as fast it is as the baseline, and seconds of teaching."""
    variant, precision = case
    return {
        **summary(taken[_name(level, case)]),
        "faster": _ratio(taken, level, BASE, case),
        "faster_same_precision": _ratio(taken, level, (BASELINE, precision), case),
        "teach_seconds": statistics.median(taken[_name("teach", case)]) if variant == OPTIMISED else None,
    }


def score_bytes(method: FewShotMethod, shots: int, dtype: torch.dtype) -> float:
    """Bytes, about, that the baseline implementation materialises at once: the scores of the largest block before and
    after the softmax; HSNet's correlation of its finest scale, and a copy; little for other methods."""
    if isinstance(method, HSNet):
        finest = min(method.scales)
        correlations = len(method.compared[finest]) * (method.config.image_size / finest) ** 4
        return 2 * correlations * torch.empty((), dtype=dtype).element_size()
    if not isinstance(method, MaskAggregation):
        return 0.0
    largest = 0.0
    for block in method.backbone.blocks:
        if block.scale in method.config.attention_scales:
            positions = (method.config.image_size / block.stride) ** 2
            largest = max(largest, positions**2 * shots)
    return 2 * largest * method.config.heads * torch.empty((), dtype=dtype).element_size()


def _cases(settings: BenchSettings, method: FewShotMethod, shots: int) -> list[Contender]:
    """Ways and precisions, without what would not fit into memory."""
    device = settings.torch_device
    cases = []
    for precision, dtype in settings.dtypes.items():
        for variant in VARIANTS:
            if variant == OPTIMISED or fits(1.5 * score_bytes(method, shots, dtype), device):
                cases.append((variant, precision))
    return cases


def _name(level: str, case: Contender) -> str:
    return "/".join((level, *case))


def _timed(
    prepared: dict[Contender, Prepared], settings: BenchSettings, device: torch.device
) -> dict[str, list[float]]:
    contenders: dict[str, Callable[[], object]] = {**roofline_contenders(device, settings.precisions)}
    for level in settings.levels:
        for case, what in prepared.items():
            contenders[_name(level, case)] = what.work[level]
    for case, what in prepared.items():
        if case[0] == OPTIMISED:
            contenders[_name("teach", case)] = what.teach
    return interleaved(contenders, repeats=settings.repeats, device=device, clock=settings.clock)


def _ratio(taken: dict[str, list[float]], level: str, base: Contender, case: Contender) -> float | None:
    """How many times as fast as `base`, round by round; the median."""
    slow, fast = taken.get(_name(level, base)), taken[_name(level, case)]
    return None if slow is None else statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _agreement(prepared: dict[Contender, Prepared], settings: BenchSettings) -> dict[str, Row]:
    """Largest difference from the baseline implementation in float32, and how much that result varies."""
    found = {}
    for level in settings.levels:
        base = prepared[BASE].work[level]().float() if BASE in prepared else None
        for case, what in prepared.items():
            difference = deviation = None
            if base is not None:
                difference, deviation = _difference(what.work[level](), base)
            found[_name(level, case)] = {"difference": difference, "deviation": deviation}
    return found


def _difference(result: Tensor, base: Tensor) -> tuple[float, float]:
    return (result.float() - base).abs().max().item(), base.std().item()


def _peaks(settings: BenchSettings, name: str, shots: int, case: Contender) -> dict[str, float | None]:
    return peak_mebibytes(
        "queries:memory_pieces",
        settings.torch_device,
        threads=settings.threads,
        model=name,
        size=settings.size,
        shots=shots,
        variant=case[0],
        precision=case[1],
        levels=list(settings.levels),
    )


def memory_pieces(
    device: torch.device, *, model: str, size: int | None, shots: int, variant: str, precision: str, levels: list[str]
) -> Pieces:
    """What `peak` measures: one variant's levels, in a process that has prepared that variant alone."""
    prepared = prepare_variant(build(bench_model(model), size), variant, shots, device, PRECISIONS[precision])
    for level in levels:
        yield level, _without_gradients(prepared.work[level])


def _without_gradients(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def quietly() -> Tensor:
        with torch.inference_mode():
            return run()

    return quietly
