"""A run of the measurements: which cases there are, one after the other, each kept as soon as it is done."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

from fewseg.core.devices import PRECISIONS
from fewseg.core.progress import ProgressCallback
from fewseg.tools.bench_options import BUDGETS, LEVELS
from fewseg_bench.accuracy import accuracy_rows, accuracy_tasks, accuracy_variants
from fewseg_bench.curves import CURVES, curve_rows
from fewseg_bench.implementations import implementation_rows
from fewseg_bench.machine import describe_machine, load_average
from fewseg_bench.models import MODELS, bench_model
from fewseg_bench.queries import query_rows
from fewseg_bench.results import Results, Row
from fewseg_bench.settings import BenchSettings
from fewseg_bench.training import training_rows


@dataclass(frozen=True)
class BenchPlan:
    """Which cases are measured, beside the settings that all parts share."""

    parts: tuple[str, ...]
    curves: dict[str, tuple[int, ...]]
    curve_models: tuple[str, ...]
    training: tuple[tuple[str, int], ...]
    """Models and episodes of a step."""
    implementation_models: tuple[str, ...]
    data: tuple[str, ...] = ()
    checkpoint: str = "default"
    budgets: tuple[int, ...] = BUDGETS
    per_class: int = 15


FULL_CURVES: Final = ("dcama-resnet50", "embedded")
"""Models of the curves, and whose implementations are compared."""

FULL_TRAINING: Final = (("embedded", 8), ("dcama-resnet50", 2), ("sccan-resnet50", 2), ("hsnet-resnet50", 2))
"""Batches whose scores the baseline loop can keep for the backward pass in about 8 GiB."""


def full_plan(parts: tuple[str, ...], settings: BenchSettings, **more: Any) -> BenchPlan:
    """The tables of the documentation; of models that were chosen, all that a part can measure."""
    if settings.models == tuple(MODELS):
        return BenchPlan(parts, CURVES, FULL_CURVES, FULL_TRAINING, FULL_CURVES, **more)
    dcama = tuple(m for m in settings.models if bench_model(m).method in ("dcama", "dcama_light"))
    trained = tuple((m, dict(FULL_TRAINING).get(m, 2)) for m in settings.models)
    return BenchPlan(parts, CURVES, settings.models, trained, dcama, **more)


Measurement = tuple[str, str, Callable[[BenchSettings], list[Row]]]
"""Part, name of the case, and what measures it; the settings may ask for more than the plan's."""


def measurements(settings: BenchSettings, plan: BenchPlan) -> Iterator[Measurement]:
    """Every case of a plan, cheap parts first within reason: in the order of the tables."""
    if "queries" in plan.parts:
        for model in settings.models:
            for shots in settings.shots:
                yield "queries", f"{model} {shots}", functools.partial(query_rows, name=model, shots=shots)
    if "implementations" in plan.parts:
        for model in plan.implementation_models:
            for shots in settings.shots:
                measure = functools.partial(implementation_rows, name=model, shots=shots)
                yield "implementations", f"{model} {shots}", measure
    if "curves" in plan.parts:
        for model in plan.curve_models:
            for curve, places in plan.curves.items():
                for place in places:
                    measure = functools.partial(curve_rows, name=model, curve=curve, place=place)
                    yield "curves", f"{model} {curve} {place}", measure
    if "training" in plan.parts:
        for model, batch in plan.training:
            yield "training", f"{model} {batch}", functools.partial(training_rows, name=model, batch=batch)
    if "accuracy" in plan.parts:
        yield from _accuracy_measurements(settings, plan)


def _accuracy_measurements(settings: BenchSettings, plan: BenchPlan) -> Iterator[Measurement]:
    for task in accuracy_tasks(settings, plan.checkpoint, plan.data, plan.per_class):
        shots = len(task.episodes[0].support)
        asked = f"{plan.checkpoint} {task.target.dataset.name} {task.digest} {shots}"
        for variant in accuracy_variants(plan.budgets, settings.precisions):
            measure = functools.partial(accuracy_rows, task=task, variant=variant)
            yield "accuracy", f"{asked} {variant.name} {variant.precision}", measure


def about(settings: BenchSettings) -> dict[str, Any]:
    """The machine and the settings, as the results keep them."""
    from fewseg.core.version import __version__

    with _threads(settings.threads):
        machine = describe_machine(settings.torch_device)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**machine, "fewseg": __version__, "date": today, "load": load_average(), **settings.lasting()}


def measure(
    settings: BenchSettings, plan: BenchPlan, results: Results, *, progress: ProgressCallback | None = None
) -> Results:
    """Measure what the results do not hold yet; `progress` is called with cases done, cases in all, and the next.

    A case that holds less than is wanted is measured again as a whole, since its variants are compared in one run.
    """
    todo = list(measurements(settings, plan))
    with _threads(settings.threads):
        for number, (part, name, rows) in enumerate(todo):
            if progress is not None:
                progress(number, len(todo), f"{part}: {name}")
            wanted = _wider(settings, part, results.of(part, name)) if results.has(part, name) else settings
            if wanted is not None:
                results.put(part, name, rows(wanted))
                gc.collect()
    if progress is not None:
        progress(len(todo), len(todo), "")
    return results


_SPANS: Final = {"queries": ("precision", "level"), "implementations": ("precision",), "curves": ("precision",)}
"""In what of the settings the rows of one case differ; other parts have one row for all, or a case for each."""


def _wider(settings: BenchSettings, part: str, rows: list[Row]) -> BenchSettings | None:
    """What is wanted together with what the rows hold; nothing where they hold all of it."""
    precisions, levels = set(settings.precisions), set(settings.levels)
    spans = _SPANS.get(part, ())
    held = {key: {row.get(key) for row in rows} for key in spans}
    memory = part == "accuracy" or any(row.get("memory_how") for row in rows)
    whole = precisions <= held.get("precision", precisions) and levels <= held.get("level", levels)
    if whole and (memory or not settings.memory):
        return None
    return dataclasses.replace(
        settings,
        precisions=tuple(p for p in PRECISIONS if p in precisions | held.get("precision", set())),
        levels=tuple(level for level in LEVELS if level in levels | held.get("level", set())),
        memory=settings.memory or memory,
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads of torch within; as they were after."""
    before = torch.get_num_threads()
    if count:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
