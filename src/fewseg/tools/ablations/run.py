"""Running an experiment: train what has to be trained, measure, keep what is finished."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from fewseg.core.devices import choose_device
from fewseg.core.errors import InvalidDataset, InvalidOption
from fewseg.core.files import make_folder, write_text
from fewseg.core.progress import ProgressCallback
from fewseg.data.episodes.sources import BENCHMARKS
from fewseg.evaluation.plan import Trial, draw_trials, open_targets
from fewseg.evaluation.protocols import Protocol, choose_protocol, default_protocol
from fewseg.evaluation.summary import mean_interval
from fewseg.models.backbones import build_pyramid
from fewseg.models.checkpoints import fingerprint, load_method, open_model
from fewseg.models.methods import METHODS, FewShotMethod, create_method
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.options import method_options
from fewseg.tools.ablations.experiments import Experiment, Variant
from fewseg.tools.ablations.measure import ResultRow, check_masks, cost_rows, mask_rows, score_rows, shot_rows
from fewseg.tools.ablations.settings import (
    Settings,
    check_given_model,
    deciding_settings,
    train_config,
    variant_options,
)
from fewseg.training.train import TrainReport, train

_FORMAT: Final = "fewseg.ablation.1"


@dataclass(frozen=True)
class ExperimentResult:
    """An experiment's rows, in its variants' order."""

    experiment: Experiment
    rows: tuple[ResultRow, ...]
    benchmark: str | None
    """The published benchmark that was measured on, if it was one."""
    protocol: Protocol | None
    skipped: int
    """Parts that were finished before."""


def run_experiment(
    experiment: Experiment, settings: Settings, out: Path, *, progress: ProgressCallback | None = None
) -> ExperimentResult:
    """Run every variant on every fold; what `out` holds already is read instead.

    Models are in `out/models`, where other experiments find those that they have in common. Run again after a kill, or
    with more folds, it goes on where it was.

    Raises:
        InvalidOption: settings that cannot work, or another run's results in `out`.
        InvalidDataset, InvalidCheckpoint: data or weights that cannot be used.
    """
    check_experiment(experiment, settings)
    protocol = _protocol(settings) if experiment.reads_images else None
    found: dict[str, list[ResultRow]] = {}
    skipped = 0
    for variant in experiment.variants:
        for fold, seed in itertools.product(settings.fold or (None,), _seeds(experiment, settings)):
            part = _Part(experiment, variant, fold, seed, settings, protocol, out, progress or (lambda *_: None))
            rows, finished = part.rows()
            skipped += finished
            for row in rows:
                labelled = {**row, "variant": variant.title, "seed": seed}
                found.setdefault(f"{row['title']} {row.get('shots', '')}", []).append(labelled)
    means = tuple(_mean(rows) for rows in found.values())
    return ExperimentResult(experiment, means, _benchmark(settings), protocol, skipped)


def check_experiment(experiment: Experiment, settings: Settings) -> None:
    """Raise `InvalidOption` or `InvalidDataset` for settings that cannot work, before anything is trained."""
    trains = not _as_made(experiment, settings) and (experiment.trains == "each" or settings.model is None)
    if not settings.data and (trains or experiment.reads_images):
        raise InvalidDataset(f"{experiment.name} needs images: give a dataset with --data")
    if settings.model and experiment.trains == "each":
        raise InvalidOption(f"every variant of {experiment.name} has weights of its own: leave out --model")
    check_given_model(settings)
    if settings.shots and min(settings.shots) < 1:
        raise InvalidOption(f"shots {' '.join(map(str, settings.shots))}: give at least 1")
    if not settings.seed or len(set(settings.seed)) < len(settings.seed):
        raise InvalidOption(f"seeds {' '.join(map(str, settings.seed)) or 'missing'}: give each once")
    if settings.repeats < 1 or settings.evaluation_batch_size < 1:
        raise InvalidOption(
            f"repeats {settings.repeats}, evaluation_batch_size {settings.evaluation_batch_size}: give at least 1"
        )
    if experiment.reads_images:
        protocol = _protocol(settings)
        if experiment.measure == "masks":
            check_masks(protocol)
    if settings.model is not None:
        given = open_model(settings.model)
        if not isinstance(given, MaskAggregation) and any(variant.method == "dcama" for variant in experiment.variants):
            raise InvalidOption(f"{settings.model} is {given.name}: {experiment.name} takes a DCAMA")
    if trains:
        for variant in experiment.variants:
            train_config(variant, settings, None, settings.seed[0])


def _as_made(experiment: Experiment, settings: Settings) -> bool:
    """Whether models are measured as they are made, untrained: their cost is the same."""
    return experiment.trains == "never" or (experiment.measure == "cost" and not settings.data)


def _seeds(experiment: Experiment, settings: Settings) -> tuple[int, ...]:
    """The seeds to train with; models that are not trained are the same for all."""
    trains = experiment.trains == "each" or settings.model is None
    return settings.seed if trains and not _as_made(experiment, settings) else settings.seed[:1]


def _protocol(settings: Settings) -> Protocol:
    return choose_protocol(
        settings.protocol or default_protocol(settings.data),
        count=settings.evaluation_episodes,
        scoring=settings.scoring,
    )


def _benchmark(settings: Settings) -> str | None:
    kinds = {word.partition(":")[0] for word in settings.data}
    return kinds.pop() if len(kinds) == 1 and kinds <= BENCHMARKS.keys() else None


@dataclass(frozen=True)
class _Part:
    """One variant on one fold, trained with one seed."""

    experiment: Experiment
    variant: Variant
    fold: int | None
    seed: int
    settings: Settings
    protocol: Protocol | None
    out: Path
    progress: ProgressCallback

    def rows(self) -> tuple[list[ResultRow], bool]:
        """The measured rows, and whether they were there already."""
        path = make_folder(self.out / self.experiment.name) / f"{_slug(self.variant.title)}{self._end}.json"
        about = json.loads(json.dumps({"format": _FORMAT, **self._about()}))
        if path.is_file():
            return _read(path, about), True
        rows = self._measure()
        write_text(path, json.dumps({"about": about, "rows": rows}, indent=1) + "\n")
        return rows, False

    @property
    def _end(self) -> str:
        return ("" if self.fold is None else f"_fold{self.fold}") + (f"_seed{self.seed}" if self.seed else "")

    def _about(self) -> dict[str, Any]:
        """What decides the numbers; not where and how fast they are computed."""
        left_out = ("device", "cache_folder", "repeats", "fold", "seed", "measure_batch")
        settings = {k: v for k, v in deciding_settings(self.settings).items() if k not in left_out}
        if self.experiment.measure in ("cost", "shots"):  # where and how fast is what they measure
            settings |= {"repeats": self.settings.repeats, "device": str(choose_device(self.settings.device))}
        if self.settings.model:
            settings["checkpoint"] = fingerprint(open_model(self.settings.model))
        protocol = self.protocol.to_json() if self.protocol else None
        variant = dataclasses.asdict(self.variant)
        about = {"variant": variant, "fold": self.fold, "seed": self.seed}
        return {**about, "settings": settings, "protocol": protocol}

    def _measure(self) -> list[ResultRow]:
        trials = self._trials()  # before the training: what is missing is said at once
        method, report = self._model()
        method = method.to(choose_device(self.settings.device)).eval()
        shots, repeats = self.settings.shots or self.experiment.shots, self.settings.repeats
        if self.experiment.measure == "cost":
            return cost_rows(self.variant, method, repeats, self._epochs(report))
        if self.experiment.measure == "shots":
            return shot_rows(self.variant, method, shots, repeats, self._measuring)
        assert self.protocol is not None
        if self.experiment.measure == "masks":
            return mask_rows(method, trials, self.protocol, self._measuring)
        return score_rows(
            self.variant, method, trials, self.protocol, self.settings.evaluation_batch_size, self._measuring
        )

    def _trials(self) -> list[Trial]:
        if self.protocol is None:
            return []
        fold = () if self.fold is None else (self.fold,)
        given = self.settings
        targets = open_targets(given.data, self.protocol, fold=fold, folds=given.folds, min_area=given.min_area)
        return draw_trials(targets, self.protocol, given.shots or self.experiment.shots)

    def _model(self) -> tuple[FewShotMethod, TrainReport | None]:
        given = self.settings
        if given.model is not None:
            method = open_model(given.model)
            aggregates = self.variant.method == "dcama" and isinstance(method, MaskAggregation)
            if aggregates or method.name == self.variant.method:
                return method, None
            other: Any = METHODS[self.variant.method]  # beside it, over the same backbone at the same size
            return other(build_pyramid(method.backbone.spec), other.Config(image_size=method.config.image_size)), None
        if _as_made(self.experiment, given):
            options = method_options(self.variant.method, variant_options(self.variant, given))
            options["image_size"] = given.image_size
            return create_method(self.variant.method, backbone=given.backbone, **options), None
        config = train_config(self.variant, given, self.fold, self.seed)
        words = "_".join([config.method, *config.model_kwargs])
        folder = self.out / "models" / f"{_slug(words)}{self._end}"
        report = train(
            config,
            make_folder(folder),
            progress=lambda done, total, last: self._report_progress(done, total, last, "training"),
        )
        return load_method(report.best), report

    def _epochs(self, report: TrainReport | None) -> float | None:
        """Epochs up to the best checkpoint."""
        if report is None:
            return None
        return (report.best_step or report.steps) / (self.settings.episodes_per_epoch // self.settings.batch_size)

    def _measuring(self, done: int, total: int, last: str) -> None:
        self._report_progress(done, total, last, "measuring")

    def _report_progress(self, done: int, total: int, last: str, what: str) -> None:
        self.progress(done, total, f"{self.experiment.name}, {self.variant.title}{self._end}: {what} {last}".rstrip())


def _read(path: Path, about: dict[str, Any]) -> list[ResultRow]:
    """The rows of a finished part; raises `InvalidOption` where it is another run's, or damaged."""
    try:
        content = json.loads(path.read_text("utf-8"))
        before, rows = content["about"], list(content["rows"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidOption(f"{path} is damaged ({type(error).__name__}): remove it to measure again") from error
    for key in ("format", "variant", "seed", "settings", "protocol"):
        if before.get(key) != about[key]:
            differs = _difference(before.get(key), about[key], key)
            raise InvalidOption(
                f"{path} was measured with {differs}: give the same settings to go on, or another --out"
            )
    return rows


def _difference(before: Any, now: Any, key: str) -> str:
    """The first field that differs, in words."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in {**now, **before}:
            if before.get(name) != now.get(name):
                return _difference(before.get(name), now.get(name), name)
    return f"{key} {before!r}, not {now!r}"


def _slug(words: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=]+", "-", words).strip("-")


def _mean(rows: list[ResultRow]) -> ResultRow:
    """One row of several folds' and seeds'; the interval is of the mean over the seeds, and without them none."""
    if len(rows) == 1:
        return rows[0]
    numbers = [k for k in rows[0] if k not in ("title", "variant", "seed", "miou_low", "miou_high")]
    means: ResultRow = {k: sum(row[k] for row in rows) / len(rows) for k in numbers}
    by_seed: dict[int, list[float]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(row.get("miou", 0.0))
    interval = mean_interval([sum(values) / len(values) for values in by_seed.values()])
    if "miou" in means and interval:
        means["miou_low"], means["miou_high"] = interval
    return {"title": rows[0]["title"], "variant": rows[0]["variant"], "seeds": sorted(by_seed), **means}
