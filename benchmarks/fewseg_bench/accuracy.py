"""Accuracy of precisions and of support-token budgets: mIoU on the same episodes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any, Final

from fewseg.core.devices import PRECISIONS
from fewseg.core.errors import InvalidDataset, InvalidOption
from fewseg.core.progress import ProgressCallback, silent
from fewseg.core.types import Episode
from fewseg.data.episodes.draw import draw_test_episodes
from fewseg.evaluation.evaluate import evaluate
from fewseg.evaluation.plan import Target, open_targets
from fewseg.evaluation.protocols import choose_protocol
from fewseg.models.checkpoints import fingerprint, open_model
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg_bench.machine import synchronise
from fewseg_bench.results import Row
from fewseg_bench.settings import BenchSettings

SEED: Final = 0
"""Of the episodes."""


@dataclasses.dataclass(frozen=True)
class AccuracyVariant:
    """One row of the table."""

    precision: str = "float32"
    budget: int | None = None

    @property
    def name(self) -> str:
        """In words."""
        return "all tokens" if self.budget is None else f"{self.budget} + {self.budget} tokens"


def accuracy_variants(budgets: tuple[int, ...], precisions: tuple[str, ...]) -> list[AccuracyVariant]:
    """All tokens in float32 first, which the others are compared with; then the precisions, then the budgets.

    Raises `InvalidOption` for a budget below 1.
    """
    if wrong := [budget for budget in budgets if budget < 1]:
        raise InvalidOption(f"budget of {wrong[0]} tokens: give at least 1")
    others = [AccuracyVariant(precision=p) for p in precisions if p != "float32"]
    return [AccuracyVariant(), *others, *(AccuracyVariant(budget=b) for b in sorted(budgets))]


def open_accuracy_data(words: tuple[str, ...]) -> list[Target]:
    """Folders as `fewseg evaluate` takes them, ROOT@cat,dog; a class has to cover 2 % of an image."""
    if not words:
        raise InvalidOption("no data to measure accuracy on: give --data FOLDER@CLASSES, as fewseg evaluate takes it")
    return open_targets(words, choose_protocol("folder"), min_area=0.02)


@dataclasses.dataclass(frozen=True)
class AccuracyTask:
    """A model and episodes of a dataset, on which variants are compared."""

    checkpoint: str
    target: Target
    episodes: list[Episode]
    digest: str
    """Digest of data, classes, episodes and model: folders share names, and checkpoints their paths."""

    @property
    def classes(self) -> list[str]:
        """Those tested."""
        return [self.target.dataset.classes[number] for number in self.target.novel]


def accuracy_tasks(
    settings: BenchSettings, checkpoint: str, data: tuple[str, ...], per_class: int
) -> Iterator[AccuracyTask]:
    """Every dataset with every number of shots; `per_class` episodes of each class.

    Raises `InvalidDataset` where no class has enough images.
    """
    model = fingerprint(open_model(checkpoint, image_size=settings.size))
    places = [os.path.abspath(word) for word in data]
    for target in open_accuracy_data(data):
        for shots in settings.shots:
            episodes = draw(target, shots, per_class)
            drawn = [dataclasses.astuple(episode) for episode in episodes]
            asked = json.dumps([places, target.dataset.classes, target.novel, drawn, model])
            yield AccuracyTask(checkpoint, target, episodes, hashlib.sha256(asked.encode()).hexdigest()[:8])


def accuracy_rows(
    settings: BenchSettings,
    task: AccuracyTask,
    variant: AccuracyVariant,
    *,
    progress: ProgressCallback = silent,
) -> list[Row]:
    """mIoU of a variant on the novel classes of a dataset, as one row."""
    method = load_variant(task.checkpoint, variant, settings.size)
    method = method.to(settings.torch_device, PRECISIONS[variant.precision])
    result = evaluate(method, task.target.dataset, task.episodes, progress=progress)
    synchronise(settings.torch_device)
    row: dict[str, Any] = {
        "checkpoint": task.checkpoint,
        "dataset": result.dataset,
        "classes": task.classes,
        "digest": task.digest,
        "size": method.config.image_size,
        "shots": len(task.episodes[0].support),
        "variant": variant.name,
        "precision": variant.precision,
        "budget": variant.budget,
        "episodes": result.episodes,
        "miou": result.miou,
        "interval": list(result.miou_interval),
        "seconds": result.seconds_per_query,
    }
    return [row]


def load_variant(checkpoint: str, variant: AccuracyVariant, size: int | None = None) -> FewShotMethod:
    """The model with the variant's budget, its own input size if none is given.

    Raises `InvalidOption` for a method that has no budget, or cannot work at that size.
    """
    method = open_model(checkpoint, image_size=size)
    if variant.budget is not None:
        if not isinstance(method, MaskAggregation):
            raise InvalidOption(f"{method.name} has no support-token budget: measure a DCAMA checkpoint")
        method.config = dataclasses.replace(method.config, support_pixel_budget=variant.budget)
    return method


def draw(target: Target, shots: int, per_class: int) -> list[Episode]:
    """The episodes of a dataset; raises `InvalidDataset` where no class has enough images."""
    episodes = draw_test_episodes(target.dataset, target.novel, shots, per_class, SEED)
    if not episodes:
        raise InvalidDataset(
            f"{target.dataset.name}: no class has the {shots + 1} usable images of a {shots}-shot test"
        )
    return episodes
