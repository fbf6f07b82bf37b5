"""A run of the measurements: which cases there are, one after the other, each kept as soon as it is done."""

from __future__ import annotations

import contextlib
import datetime
import gc
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fewseg.bench.accuracy import BUDGETS, accuracy_row, open_data, variants
from fewseg.bench.cases import find_model
from fewseg.bench.curves import CURVES, curve_rows
from fewseg.bench.implementations import implementation_rows
from fewseg.bench.machine import describe_machine, load_average
from fewseg.bench.queries import query_rows
from fewseg.bench.results import Results, Row
from fewseg.bench.settings import BenchSettings
from fewseg.bench.training import training_rows
from fewseg.checkpoints import fingerprint, load_method

ProgressCallback = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Plan:
    """What is measured beside the settings that all parts share."""

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


FULL_TRAINING = (("embedded", 8), ("dcama-resnet50", 2), ("sccan-resnet50", 2), ("hsnet-resnet50", 2))
"""Batches whose scores the straightforward loop can keep for the backward pass in about 8 GiB."""


def full_plan(parts: tuple[str, ...], settings: BenchSettings, **more: Any) -> Plan:
    """The tables of the documentation, for the models of the settings."""
    dcama = tuple(m for m in settings.models if find_model(m).method == "dcama")
    curved = tuple(m for m in ("dcama-resnet50", "embedded", "dcama-tiny") if m in dcama) or dcama[:1]
    trained = tuple((m, b) for m, b in FULL_TRAINING if m in settings.models)
    trained = trained or tuple((m, 2) for m in settings.models[:1])
    return Plan(parts, CURVES, curved, trained, curved, **more)


Case = tuple[str, str, Callable[[], list[Row]]]
"""Part, name of the case, and what measures it."""


def cases(settings: BenchSettings, plan: Plan) -> Iterator[Case]:
    """Every case of a plan, cheap parts first within reason: in the order of the tables."""
    if "queries" in plan.parts:
        for model in settings.models:
            for shots in settings.shots:
                yield "queries", f"{model} {shots}", lambda m=model, s=shots: query_rows(settings, m, s)  # type: ignore[misc]
    if "implementations" in plan.parts:
        for model in plan.implementation_models:
            for shots in settings.shots:
                yield (
                    "implementations",
                    f"{model} {shots}",
                    lambda m=model, s=shots: implementation_rows(settings, m, s),  # type: ignore[misc]
                )
    if "curves" in plan.parts:
        for model in plan.curve_models:
            for curve, places in plan.curves.items():
                for place in places:
                    yield (
                        "curves",
                        f"{model} {curve} {place}",
                        lambda m=model, c=curve, p=place: curve_rows(settings, m, c, p),  # type: ignore[misc]
                    )
    if "training" in plan.parts:
        for model, batch in plan.training:
            yield "training", f"{model} {batch}", lambda m=model, b=batch: training_rows(settings, m, b)  # type: ignore[misc]
    if "accuracy" in plan.parts:
        yield from _accuracy_cases(settings, plan)


def _accuracy_cases(settings: BenchSettings, plan: Plan) -> Iterator[Case]:
    model = fingerprint(load_method(plan.checkpoint))
    for target in open_data(plan.data):
        # What the episodes and the answers depend on: folders share names, and checkpoints their paths.
        asked = [
            [os.path.abspath(word) for word in plan.data],
            target.dataset.classes,
            target.novel,
            plan.per_class,
            model,
        ]
        digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]
        for shots in settings.shots:
            for variant in variants(plan.budgets, settings.precisions):
                name = f"{plan.checkpoint} {target.dataset.name} {digest} {shots} {variant.name} {variant.precision}"
                yield (
                    "accuracy",
                    name,
                    lambda t=target, s=shots, v=variant: [  # type: ignore[misc]
                        accuracy_row(settings, t, plan.checkpoint, s, v, per_class=plan.per_class)
                    ],
                )


def about(settings: BenchSettings) -> dict[str, Any]:
    """The machine and the settings, as the results keep them."""
    from fewseg import __version__

    with _threads(settings.threads):
        machine = describe_machine(settings.torch_device)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return {**machine, "fewseg": __version__, "date": today, "load": load_average(), **settings.lasting()}


def measure(
    settings: BenchSettings, plan: Plan, results: Results, *, progress: ProgressCallback | None = None
) -> Results:
    """Measure what the results do not hold yet; `progress` is called with cases done, cases in all, and the next."""
    todo = list(cases(settings, plan))
    with _threads(settings.threads):
        for number, (part, name, rows) in enumerate(todo):
            if progress is not None:
                progress(number, len(todo), f"{part}: {name}")
            if not results.has(part, name):
                results.put(part, name, rows())
                gc.collect()
    if progress is not None:
        progress(len(todo), len(todo), "")
    return results


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
