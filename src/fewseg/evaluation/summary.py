"""Means of results over folds and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from fewseg.evaluation.evaluate import EvaluationResult
from fewseg.evaluation.fusion import Fusion


@dataclass(frozen=True)
class Summary:
    """One dataset and number of shots over all its folds and seeds; IoU in per cent."""

    dataset: str
    benchmark: str | None
    shots: int
    fusion: Fusion
    folds: dict[int, float]
    """Fold to mIoU, mean over the seeds; empty for a dataset without folds."""
    seeds: tuple[int, ...]
    miou: float
    """Mean over the folds, then over the seeds; so are the others."""
    fb_iou: float
    rom: float
    rum: float
    miou_interval: tuple[float, float] | None
    """95 % interval of the mean over seeds (Student's t); None for a single seed."""

    def to_json(self) -> dict[str, Any]:
        """For `results.json`."""
        return {**self.__dict__, "folds": {str(fold): value for fold, value in self.folds.items()}}


def summarise(results: Sequence[EvaluationResult]) -> list[Summary]:
    """One summary for each dataset, number of shots and fusion, in the order of the results."""
    groups: dict[tuple[str, int, Fusion], list[EvaluationResult]] = {}
    for result in results:
        groups.setdefault((result.benchmark or result.dataset, result.shots, result.fusion), []).append(result)
    return [_summary(*key, chosen) for key, chosen in groups.items()]


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of independent runs; None for fewer than 2."""
    if len(values) < 2:
        return None
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def _summary(dataset: str, shots: int, fusion: Fusion, results: list[EvaluationResult]) -> Summary:
    seeds = sorted({result.seed for result in results if result.seed is not None})
    folds = sorted({result.fold for result in results if result.fold is not None})
    # One result for each fold that was run.
    runs = [[r for r in results if r.seed == seed] for seed in seeds] or [results]
    means = [float(np.mean([r.miou for r in run])) for run in runs]

    def mean(values: Sequence[float | None]) -> float:
        return float(np.mean([value for value in values if value is not None] or [0.0]))

    return Summary(
        dataset=dataset,
        benchmark=results[0].benchmark,
        shots=shots,
        fusion=fusion,
        folds={fold: mean([r.miou for r in results if r.fold == fold]) for fold in folds},
        seeds=tuple(seeds),
        miou=mean(means),
        fb_iou=mean([r.fb_iou for r in results]),
        rom=mean([r.rom for r in results]),
        rum=mean([r.rum for r in results]),
        miou_interval=mean_interval(means),
    )
