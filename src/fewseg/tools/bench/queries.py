"""The straightforward way and ours side by side."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fewseg.core.devices import PRECISIONS
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.hsnet import HSNet
from fewseg.tools.bench.cases import build, find_model
from fewseg.tools.bench.floor import floors, limit
from fewseg.tools.bench.memory import fits, peak_mebibytes, together
from fewseg.tools.bench.operations import operations_by_level
from fewseg.tools.bench.peak import Pieces, way_of_measuring
from fewseg.tools.bench.settings import BenchSettings
from fewseg.tools.bench.timing import interleaved, summary
from fewseg.tools.bench.ways import WAYS, Prepared, prepare

Row = dict[str, Any]
"""JSON values of one measurement."""

Case = tuple[str, str]
"""Way and precision."""

BASE: Case = ("reference", "float32")
"""What everything is compared with."""


def query_rows(settings: BenchSettings, name: str, shots: int) -> list[Row]:
    """All measurements of a model with so many shots: levels, ways and precisions, taking turns in one run."""
    device, model = settings.torch_device, find_model(name)
    method = build(model, settings.size)
    cases = _cases(settings, method, shots)
    prepared = {case: prepare(method, case[0], shots, device, PRECISIONS[case[1]]) for case in cases}
    with torch.inference_mode():
        agreement = _agreement(prepared, settings)
        taken = _timed(prepared, settings, device)
    peaks = {}
    if settings.memory:
        peaks = together({case: functools.partial(_peaks, settings, name, shots, case) for case in prepared})
    operations = operations_by_level(method, shots)
    rows = []
    for level in settings.levels:
        for case, what in prepared.items():
            way, precision = case
            seconds = taken[_name(level, case)]
            most = limit(taken, precision)
            rows.append(
                {
                    "model": name,
                    "about": model.about,
                    "size": method.config.image_size,
                    "shots": shots,
                    "level": level,
                    "way": way,
                    "precision": precision,
                    **summary(seconds),
                    "faster": _ratio(taken, level, BASE, case),
                    "faster_same_precision": _ratio(taken, level, ("reference", precision), case),
                    "operations": operations[level],
                    "limit": most,
                    "share_of_limit": operations[level] / most / statistics.median(seconds),
                    "memory_mib": peaks.get(case, {}).get(level),
                    "memory_how": way_of_measuring(device) if settings.memory else None,
                    "support_mib": what.support_bytes / 2**20,
                    "teach_seconds": statistics.median(taken[_name("teach", case)]) if way == "ours" else None,
                    **agreement[_name(level, case)],
                }
            )
    return rows


def score_bytes(method: FewShotMethod, shots: int, dtype: torch.dtype) -> float:
    """About what the straightforward way materialises at once: the scores of the largest block, before and after the
    softmax; HSNet's correlation of its finest scale, and a copy; little for other methods."""
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


def _cases(settings: BenchSettings, method: FewShotMethod, shots: int) -> list[Case]:
    """Ways and precisions, without what would not fit into memory."""
    device = settings.torch_device
    cases = []
    for precision, dtype in settings.dtypes.items():
        for way in WAYS:
            if way == "ours" or fits(1.5 * score_bytes(method, shots, dtype), device):
                cases.append((way, precision))
    return cases


def _name(level: str, case: Case) -> str:
    return "/".join((level, *case))


def _timed(prepared: dict[Case, Prepared], settings: BenchSettings, device: torch.device) -> dict[str, list[float]]:
    contenders: dict[str, Callable[[], object]] = {**floors(device, settings.precisions)}
    for level in settings.levels:
        for case, what in prepared.items():
            contenders[_name(level, case)] = what.work[level]
    for case, what in prepared.items():
        if case[0] == "ours":
            contenders[_name("teach", case)] = what.teach
    return interleaved(contenders, repeats=settings.repeats, device=device, clock=settings.clock)


def _ratio(taken: dict[str, list[float]], level: str, base: Case, case: Case) -> float | None:
    """How many times as fast as `base`, round by round; the median."""
    slow, fast = taken.get(_name(level, base)), taken[_name(level, case)]
    return None if slow is None else statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def _agreement(prepared: dict[Case, Prepared], settings: BenchSettings) -> dict[str, Row]:
    """Largest difference from the straightforward way in float32, and how much that result varies."""
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


def _peaks(settings: BenchSettings, name: str, shots: int, case: Case) -> dict[str, float | None]:
    return peak_mebibytes(
        "queries:memory_pieces",
        settings.torch_device,
        threads=settings.threads,
        model=name,
        size=settings.size,
        shots=shots,
        way=case[0],
        precision=case[1],
        levels=list(settings.levels),
    )


def memory_pieces(
    device: torch.device, *, model: str, size: int | None, shots: int, way: str, precision: str, levels: list[str]
) -> Pieces:
    """What `peak` measures: one way's levels, in a process that has prepared that way alone."""
    prepared = prepare(build(find_model(model), size), way, shots, device, PRECISIONS[precision])
    for level in levels:
        yield level, _without_gradients(prepared.work[level])


def _without_gradients(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def quietly() -> Tensor:
        with torch.inference_mode():
            return run()

    return quietly
