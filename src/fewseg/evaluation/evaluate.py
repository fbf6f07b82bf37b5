"""Scores of a method on a list of episodes: computed in batches, resumable, by one or several processes."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewseg.core.distributed import SINGLE_PROCESS, Processes
from fewseg.core.errors import InvalidOption
from fewseg.core.progress import ProgressCallback, silent
from fewseg.core.types import Episode
from fewseg.data.datasets.base import Dataset
from fewseg.evaluation.fusion import Fusion
from fewseg.evaluation.journal import Journal, files_digest
from fewseg.evaluation.metrics.iou import IoUMeter
from fewseg.evaluation.metrics.regions import RegionMeter
from fewseg.evaluation.scoring import (
    COUNTS,
    EpisodeBatch,
    EvaluationSettings,
    Scoring,
    episode_counts,
    read_batch,
    segment_batch,
)
from fewseg.images.transforms import Resize
from fewseg.models.checkpoints import fingerprint
from fewseg.models.methods import FewShotMethod

__all__ = [
    "EpisodeScore",
    "EvaluationResult",
    "EvaluationSettings",
    "Scoring",
    "bootstrap_interval",
    "evaluate",
    "open_journal",
    "segment_episode",
]


@dataclass(frozen=True)
class EpisodeScore:
    """One episode's foreground IoU, ROM and RUM, to find the best and the worst."""

    episode: Episode
    iou: float
    rom: float = 0.0
    rum: float = 0.0


@dataclass(frozen=True)
class EvaluationResult:
    """Scores in percent over one dataset and one number of shots, and what they cost."""

    dataset: str
    shots: int
    scoring: Scoring
    miou: float
    miou_interval: tuple[float, float]
    """95 % bootstrap interval over episodes, classes kept."""
    fb_iou: float
    class_iou: dict[str, float]
    seconds_per_query: float
    """Median time of the query with the support cached, preprocessing not counted."""
    scores: tuple[EpisodeScore, ...]
    fusion: Fusion = "one-pass"
    """How the shots became one prediction."""
    resize: Resize = "square"
    """How images came to the model's size."""
    rom: float | None = None
    """Region-wise over-segmentation in [0, 1): mean over a class's episodes, then over classes."""
    rum: float | None = None
    """Region-wise under-segmentation, likewise."""
    benchmark: str | None = None
    """`pascal5i` for a fold of PASCAL-5i; None for a dataset of one's own."""
    fold: int | None = None
    seed: int | None = None
    """Of the episodes."""

    @property
    def episodes(self) -> int:
        return len(self.scores)

    def to_json(self) -> dict[str, Any]:
        """Everything but the single episodes and the time, which no two runs share."""
        left_out = ("scores", "seconds_per_query")
        return {**{k: v for k, v in asdict(self).items() if k not in left_out}, "episodes": self.episodes}


def evaluate(
    method: FewShotMethod,
    dataset: Dataset,
    episodes: Sequence[Episode],
    settings: EvaluationSettings = EvaluationSettings(),
    *,
    workers: int = 0,
    journal: Path | None = None,
    processes: Processes = SINGLE_PROCESS,
    progress: ProgressCallback = silent,
) -> EvaluationResult:
    """Scores over the queries of all episodes; the same numbers for any number of processes and after any resume.

    Args:
        method: on the device and in the dtype to measure; its `config.image_size` is the input's side.
        dataset: what the episodes' names refer to.
        episodes: at least one, all of the same number of shots.
        settings: scoring, resize, fusion and batch size.
        workers: threads that read images ahead; 0 reads them in turn.
        journal: folder of finished batches, which are not computed again.
        processes: who shares the work; each of them must call this and gets the whole result.
        progress: called with episodes done and episodes in all.

    Raises:
        InvalidOption: a batch without episodes. OutputError: the journal cannot be written.
    """
    if settings.batch < 1 or workers < 0 or not episodes:
        raise InvalidOption(
            f"{len(episodes)} episodes in batches of {settings.batch}, {workers} workers: give at least 1, 1, 0"
        )
    kept = None if journal is None else open_journal(journal, method, dataset, episodes, settings, processes)
    rows, missing = _finished(len(episodes), settings.batch, kept, processes)
    own, done = np.zeros_like(rows), len(episodes) - sum(map(len, missing))
    for numbers, counts in _counted(method, dataset, episodes, settings, processes.shard(missing), workers):
        own[list(numbers)] = counts
        if kept is not None:
            kept.write(numbers, counts)
        done = min(done + len(numbers) * processes.count, len(episodes))
        progress(done, len(episodes), "")
    # Every row is counted by one process and 0 in the others: the sum is exact.
    return _result(dataset, episodes, settings, rows + processes.all_reduce(torch.from_numpy(own)).numpy())


def open_journal(
    folder: Path,
    method: FewShotMethod,
    dataset: Dataset,
    episodes: Sequence[Episode],
    settings: EvaluationSettings,
    processes: Processes = SINGLE_PROCESS,
) -> Journal:
    """The journal in which `evaluate` keeps finished batches."""
    about = {
        **asdict(settings),
        "method": fingerprint(method),
        "computed": f"{method.device.type} {method.dtype}",
        "dataset": dataset.name,
        "files": files_digest(dataset, episodes),
        "episodes": [dataclasses.astuple(episode) for episode in episodes],
    }
    return Journal(folder, about, processes.rank)


def _finished(
    episodes: int, batch: int, journal: Journal | None, processes: Processes
) -> tuple[NDArray[np.float64], list[range]]:
    """Counts (episodes, COUNTS) that any process has in its journal, else 0, and the batches that nobody has whole."""
    rows, holders = np.zeros((episodes, COUNTS)), np.zeros((processes.count, episodes))
    for number, row in (journal.read() if journal is not None else {}).items():
        rows[number], holders[processes.rank, number] = row, 1
    holders = processes.all_reduce(torch.from_numpy(holders)).numpy()
    # Processes that share a folder read the same files: each row is taken from the first that has it.
    rows[holders.argmax(0) != processes.rank] = 0
    rows = processes.all_reduce(torch.from_numpy(rows)).numpy()
    batches = [range(start, min(start + batch, episodes)) for start in range(0, episodes, batch)]
    missing = [numbers for numbers in batches if not holders[:, list(numbers)].any(0).all()]
    for numbers in missing:
        rows[list(numbers)] = 0
    return rows, missing


def _counted(
    method: FewShotMethod,
    dataset: Dataset,
    episodes: Sequence[Episode],
    settings: EvaluationSettings,
    batches: Sequence[range],
    workers: int,
) -> Iterator[tuple[range, NDArray[np.float64]]]:
    """Of every batch the episodes' numbers and their counts (batch, COUNTS)."""

    def read(numbers: range) -> EpisodeBatch:
        return read_batch(dataset, [episodes[i] for i in numbers], method.config.image_size, settings)

    for numbers, ready in zip(batches, read_ahead(read, batches, workers), strict=True):
        masks, seconds = segment_batch(method, ready, settings)
        yield numbers, np.stack([episode_counts(m, t, seconds) for m, t in zip(masks, ready.truths, strict=True)])


def read_ahead(read: Callable[[range], EpisodeBatch], groups: Sequence[range], workers: int) -> Iterator[EpisodeBatch]:
    """The batches in order, up to two for each of the `workers` threads read before they are asked for."""
    if not workers:
        yield from map(read, groups)
        return
    pool, waiting = ThreadPoolExecutor(workers), deque[Future[EpisodeBatch]]()
    try:
        for group in groups:
            waiting.append(pool.submit(read, group))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _result(
    dataset: Dataset, episodes: Sequence[Episode], settings: EvaluationSettings, rows: NDArray[np.float64]
) -> EvaluationResult:
    meter, regions, scores, counts = IoUMeter(), RegionMeter(), [], []
    for episode, row in zip(episodes, rows, strict=True):
        inter, union = row[:2].astype(np.int64), row[2:4].astype(np.int64)
        rom, rum = float(row[4]), float(row[5])
        meter.add_counts(episode.class_id, inter, union)
        regions.add_values(episode.class_id, rom, rum)
        counts.append((episode.class_id, int(inter[1]), int(union[1])))
        scores.append(EpisodeScore(episode, float(inter[1] / max(union[1], 1)), rom, rum))
    overlap, region = meter.scores(), regions.scores()
    return EvaluationResult(
        dataset=dataset.name,
        shots=len(episodes[0].support),
        scoring=settings.scoring,
        miou=overlap.miou,
        miou_interval=bootstrap_interval(counts),
        fb_iou=overlap.fb_iou,
        class_iou={dataset.classes[c]: v for c, v in overlap.class_iou.items()},
        seconds_per_query=float(np.median(rows[:, 6])),
        scores=tuple(scores),
        fusion=settings.fusion,
        resize=settings.resize,
        rom=region.rom,
        rum=region.rum,
    )


def segment_episode(
    method: FewShotMethod, dataset: Dataset, episode: Episode, settings: EvaluationSettings = EvaluationSettings()
) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Predicted mask and true mask of the query, both (H, W), and the seconds that the query took."""
    batch = read_batch(dataset, [episode], method.config.image_size, settings)
    (predicted,), seconds = segment_batch(method, batch, settings)
    return predicted, batch.truths[0], seconds


def bootstrap_interval(
    counts: Sequence[tuple[int, int, int]], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of mIoU (percent) when each class's episodes are drawn again with replacement.

    `counts` has (class, foreground intersection, foreground union) of every episode.
    """
    rng = np.random.default_rng(seed)
    table = np.array(counts, dtype=np.float64)
    means = np.zeros(draws)
    classes = np.unique(table[:, 0])
    for class_id in classes:
        rows = table[table[:, 0] == class_id, 1:]
        drawn = rows[rng.integers(0, len(rows), (draws, len(rows)))].sum(1)
        means += drawn[:, 0] / np.maximum(drawn[:, 1], 1)
    low, high = np.percentile(100 * means / len(classes), [2.5, 97.5])
    return float(low), float(high)
