"""A whole evaluation, as `fewseg evaluate` runs it: a method on many episode lists, into a folder, resumable."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from fewseg.core.distributed import SINGLE_PROCESS, Processes
from fewseg.core.errors import InvalidOption
from fewseg.core.files import make_folder, write_text
from fewseg.core.locks import FolderLock
from fewseg.core.progress import ProgressCallback, part_of, silent
from fewseg.data.episodes.draw import save_episodes
from fewseg.evaluation.evaluate import EvaluationResult, EvaluationSettings, evaluate, open_journal
from fewseg.evaluation.fusion import Fusion
from fewseg.evaluation.plan import Trial, draw_trials, open_targets
from fewseg.evaluation.protocols import Protocol, choose_protocol, default_protocol
from fewseg.evaluation.published import paper_backbone
from fewseg.evaluation.report import class_table, markdown_table, published_tables, write_results, write_times
from fewseg.evaluation.sheets import draw_sheets
from fewseg.models.checkpoints import fingerprint
from fewseg.models.methods import FewShotMethod


def evaluate_datasets(
    method: FewShotMethod,
    data: Sequence[str],
    out: str | os.PathLike[str],
    *,
    protocol: Protocol | None = None,
    shots: Sequence[int] = (1, 5),
    fold: Sequence[int] = (),
    min_area: float = 0.02,
    sheets: int = 0,
    progress: ProgressCallback = silent,
) -> tuple[list[EvaluationResult], str]:
    """Results for every dataset, fold, number of shots and seed, and the tables that `fewseg evaluate` prints.

    Draws the episodes and writes `results.json`, `results.md` and the episode lists to `out`, where a run that was
    killed goes on.

        from fewseg import load_method
        results, tables = evaluate_datasets(load_method("default"), ["photos@cat,dog"], "runs/photos", shots=(1,))

    Args:
        method: on the device and in the dtype to measure.
        data: datasets as on the command line: `pascal5i:FOLDER`, `FOLDER@cat,dog`, `synthetic@0/4`.
        out: the folder, made where missing.
        protocol: see `choose_protocol`; the method's `benchmark_protocol` and `folder` for other data if not given.
        shots: numbers of support images.
        fold: folds of data without @; all of a benchmark if empty.
        min_area: share of an image that a class must cover, for data that are no benchmark.
        sheets: best and worst episodes of each list to draw.
        progress: called with episodes done and episodes in all.
    """
    protocol = protocol or choose_protocol(default_protocol(data, type(method)))
    trials = draw_trials(open_targets(data, protocol, fold=fold, min_area=min_area), protocol, shots)
    about = {**describe(method), "min_area": min_area, "protocol": protocol.to_json()}
    evaluation = Evaluation(method, protocol, Path(out), about)
    with evaluation.locked():
        evaluation.check(trials)
        evaluation.save_lists(trials, min_area=min_area)
        results = evaluation.run(trials, progress=progress)
        return results, evaluation.report(trials, results, sheets=sheets)


def evaluate_trials(
    method: FewShotMethod,
    trials: Sequence[Trial],
    settings: EvaluationSettings,
    *,
    workers: int = 0,
    journal: Path | None = None,
    processes: Processes = SINGLE_PROCESS,
    progress: ProgressCallback = silent,
) -> list[EvaluationResult]:
    """The results of every episode list, in order; parameters as of `evaluate`."""
    total, before, results = sum(len(trial.episodes) for trial in trials), 0, []
    for trial in trials:
        target = trial.target
        result = evaluate(
            method,
            target.dataset,
            trial.episodes,
            settings,
            workers=workers,
            journal=journal,
            processes=processes,
            progress=part_of(progress, before, total, f"{target.dataset.name}, {trial.shots}-shot"),
        )
        results.append(dataclasses.replace(result, benchmark=target.benchmark, fold=target.fold, seed=trial.seed))
        before += len(trial.episodes)
    return results


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One method under one protocol, and the folder that gets its results."""

    method: FewShotMethod
    protocol: Protocol
    out: Path
    about: Mapping[str, Any]
    """JSON values that `results.json` holds beside the results; at least what `describe` gives."""
    fusion: Fusion = "one-pass"
    batch: int = 1
    """Episodes that are segmented together."""
    workers: int | None = None
    """Threads that read images ahead; if not given, 4 for a GPU, and 0 for a CPU, whose times they would blur."""
    processes: Processes = SINGLE_PROCESS

    @property
    def settings(self) -> EvaluationSettings:
        """What decides the scores beside method and episodes."""
        return self.protocol.settings(self.fusion, self.batch)

    def locked(self) -> AbstractContextManager[Any]:
        """Holds the folder for this run's processes; raises `FolderInUse`."""
        return FolderLock(self.out) if self.processes.main else nullcontext()

    def check(self, trials: Sequence[Trial]) -> None:
        """Make the folder.

        Raises:
            InvalidOption: it holds results of another model, fusion or other lists, which would be lost.
            OutputError: it cannot be written.
        """
        make_folder(self.out)
        check_folder(self.out, self.about, self.fusion, trials)

    def run(self, trials: Sequence[Trial], *, progress: ProgressCallback = silent) -> list[EvaluationResult]:
        """The results of every episode list, in order; goes on with what an earlier run into the folder finished."""
        return evaluate_trials(
            self.method,
            trials,
            self.settings,
            workers=4 * (self.method.device.type == "cuda") if self.workers is None else self.workers,
            journal=self._journals,
            processes=self.processes,
            progress=progress,
        )

    @property
    def _journals(self) -> Path:
        return self.out / "journal"

    def save_lists(self, trials: Sequence[Trial], *, min_area: float) -> None:
        """Write the episode lists that were drawn, so that another model can be measured on the same."""
        folder = make_folder(self.out / "episodes")
        for trial in trials:
            about = {"shots": trial.shots, "seed": trial.seed, "protocol": self.protocol.name, "min_area": min_area}
            save_episodes(folder / f"{trial.stem}.json", trial.episodes, trial.target.dataset, **about)

    def report(self, trials: Sequence[Trial], results: Sequence[EvaluationResult], *, sheets: int = 0) -> str:
        """The tables as Markdown, after writing everything and removing the journals, whose episodes the results hold.

        `sheets`: best and worst episodes to draw, of each list.
        """
        method, out = self.method, self.out
        write_results(out / "results.json", results, dict(self.about))
        spent = {"device": str(method.device), "dtype": str(method.dtype).removeprefix("torch.")}
        write_times(out / "times.json", results, {**spent, "processes": self.processes.count, "batch": self.batch})
        tables = [
            markdown_table(results),
            published_tables(results, method.name, paper_backbone(method)),
            class_table(results),
            self.protocol.describe(),
            _classes_left_out(trials, results),
        ]
        text = "\n\n".join(table for table in tables if table)
        write_text(out / "results.md", text + "\n")
        for trial, result in zip(trials, results, strict=True):
            draw_sheets(method, trial, result, out, sheets)
            dataset = trial.target.dataset
            open_journal(self._journals, method, dataset, trial.episodes, self.settings, self.processes).remove()
        return text


def describe(method: FewShotMethod) -> dict[str, Any]:
    """Name, backbone, config and fingerprint as JSON values. The dtype changes the fingerprint: call it before."""
    return {
        "method": method.name,
        "backbone": method.backbone.name,
        "fingerprint": fingerprint(method),
        "config": dataclasses.asdict(method.config),
        "image_size": method.config.image_size,
    }


def check_folder(out: Path, about: Mapping[str, Any], fusion: str, trials: Sequence[Trial]) -> None:
    """Raise `InvalidOption` where a folder holds other results than those to come: they would be lost."""
    try:
        held = json.loads((out / "results.json").read_text("utf-8"))
        other = held["fingerprint"] != about["fingerprint"] or any(row["fusion"] != fusion for row in held["results"])
        whose = f"{held['method']} ({held.get('checkpoint') or held['backbone']})"
        lists = {(r["dataset"], r["fold"], r["shots"], r["seed"], frozenset(r["class_iou"])) for r in held["results"]}
    except (OSError, ValueError, LookupError, TypeError):
        return
    if other:
        raise InvalidOption(
            f"{out} holds the results of another model or fusion, {whose}: give another --out, or delete them"
        )
    if lost := lists - {_measured(trial) for trial in trials}:
        names = "; ".join(sorted({f"{dataset}, {shots}-shot" for dataset, _, shots, _, _ in lost}))
        raise InvalidOption(
            f"{out} holds results that would be lost ({names}): ask for the same and more, give another --out, "
            "or delete them"
        )


def _measured(trial: Trial) -> tuple[str, int | None, int, int | None, frozenset[str]]:
    """What tells the results of one list from those of another."""
    target = trial.target
    classes = frozenset(target.dataset.classes[episode.class_id] for episode in trial.episodes)
    return target.dataset.name, target.fold, trial.shots, trial.seed, classes


def _classes_left_out(trials: Sequence[Trial], results: Sequence[EvaluationResult]) -> str:
    """A line where the mean over a fold's classes is one over fewer, as with few episodes; else empty."""
    pairs = [(len(t.target.novel), r) for t, r in zip(trials, results, strict=True) if t.target.benchmark]
    fewer = [
        f"{r.dataset}, {r.shots}-shot: {len(r.class_iou)} of {n} classes" for n, r in pairs if len(r.class_iou) < n
    ]
    return f"Not all classes of the fold are in these means ({'; '.join(fewer)}): give more --episodes." * bool(fewer)
