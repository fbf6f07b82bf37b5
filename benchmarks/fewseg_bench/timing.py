"""Times that can be compared: contenders take turns within one run, so that what disturbs one disturbs all."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Final

import torch

from fewseg.tools.bench_options import Clock
from fewseg_bench.machine import synchronise

CLOCKS: Final[dict[str, Callable[[], float]]] = {"wall": time.perf_counter, "cpu": time.process_time}
"""Clock by name, in seconds."""


def interleaved(
    contenders: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    device: torch.device,
    clock: Clock = "wall",
    least: float = 0.02,
) -> dict[str, list[float]]:
    """Seconds of a call of each contender, `repeats` of them.

    Each runs once unmeasured, then in every round once after the other; each round begins with another one, so that no
    contender always finds the caches as the same other left them. Calls that are quick run several times a round, and
    their mean counts, so that a measurement never takes less than `least` seconds.
    """
    now = CLOCKS[clock]

    def seconds(run: Callable[[], object], calls: int) -> float:
        synchronise(device)
        started = now()
        for _ in range(calls):
            run()
        synchronise(device)
        return (now() - started) / calls

    calls = {}
    for name, run in contenders.items():
        seconds(run, 1)  # what happens the first time only
        calls[name] = max(1, min(10_000, math.ceil(least / max(seconds(run, 1), 1e-6)))) if least else 1
    names, taken = list(contenders), {name: list[float]() for name in contenders}
    for number in range(repeats):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            taken[name].append(seconds(contenders[name], calls[name]))
    return taken


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, least and spread (half the distance of the quartiles, over the median) of measured seconds."""
    median = statistics.median(seconds)
    quartiles = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else [median] * 3
    return {
        "seconds": median,
        "least": min(seconds),
        "spread": (quartiles[2] - quartiles[0]) / 2 / median if median else 0.0,
    }
