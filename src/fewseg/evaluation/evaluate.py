"""Score a method on a list of episodes: in batches, resumable, by several processes."""

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
from fewseg.core.progress import ProgressCallback
from fewseg.core.types import Episode
from fewseg.data.datasets.base import Dataset
from fewseg.evaluation.fusion import Fusion
from fewseg.evaluation.journal import Journal
from fewseg.evaluation.metrics.iou import IoUMeter
from fewseg.evaluation.metrics.regions import RegionMeter
from fewseg.evaluation.scoring import COUNTS, EpisodeBatch, Scoring, count, read_batch, segment_batch
from fewseg.images.transforms import Resize
from fewseg.models.checkpoints import fingerprint
from fewseg.models.methods import FewShotMethod

__all__ = [
    "EpisodeScore",
    "EvaluationResult",
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
    *,
    scoring: Scoring = "original",
    resize: Resize = "square",
    fusion: Fusion = "one-pass",
    batch: int = 1,
    workers: int = 0,
    journal: Path | None = None,
    processes: Processes = SINGLE_PROCESS,
    progress: ProgressCallback | None = None,
) -> EvaluationResult:
    """Segment the query of every episode and count.

    Batches are the same however many processes share them and wherever a killed run went on, and so are the numbers.

    Args:
        method: on the device and in the dtype to measure; its `config.image_size` is the input's side.
        dataset: what the episodes' names refer to.
        episodes: at least one, all of the same number of shots.
        scoring: `original` resizes the logits to the query's own size, `model` compares at the model's size.
        resize: `square` squashes images, `padded` keeps their shape as SCCAN does.
        fusion: how several shots become one prediction: `one-pass` is the method's own way; for the others see
            `fewseg.evaluation.fusion`.
        batch: episodes that are segmented together.
        workers: threads that read images ahead; 0 reads them in turn.
        journal: folder where finished batches are kept; those found there are not done again.
        processes: who shares the work; each of them must call this and gets the whole result.
        progress: called with episodes done and episodes in all.

    Raises:
        InvalidOption: a batch without episodes. OutputError: the journal cannot be written.
    """
    if batch < 1 or workers < 0 or not episodes:
        raise InvalidOption(f"{len(episodes)} episodes in batches of {batch}, {workers} workers: give at least 1, 1, 0")
    settings: dict[str, Any] = {"scoring": scoring, "resize": resize, "fusion": fusion}
    kept = None
    if journal is not None:
        kept = open_journal(journal, method, dataset, episodes, processes, batch=batch, **settings)
    rows, known = _known(len(episodes), kept, processes)
    groups = [range(start, min(start + batch, len(episodes))) for start in range(0, len(episodes), batch)]
    missing = [group for group in groups if not known[list(group)].all()]
    mine, own = processes.share(missing), np.zeros_like(rows)
    done = len(episodes) - sum(map(len, missing))

    def read(group: range) -> EpisodeBatch:
        chosen = [episodes[i] for i in group]
        return read_batch(dataset, chosen, method.config.image_size, scoring=scoring, resize=resize)

    for group, ready in zip(mine, _read_ahead(read, mine, workers), strict=True):
        masks, seconds = segment_batch(method, ready, **settings)
        own[list(group)] = [count(mask, truth, seconds) for mask, truth in zip(masks, ready.truths, strict=True)]
        if kept is not None:
            kept.write(group, own[list(group)])
        done = min(done + len(group) * processes.count, len(episodes))
        if progress is not None:
            progress(done, len(episodes), "")
    for group in missing:
        rows[list(group)] = 0
    # Every row is counted by one process and 0 in the others: the sum is exact.
    return _result(dataset, episodes, rows + processes.total(torch.from_numpy(own)).numpy(), **settings)


def open_journal(
    folder: Path,
    method: FewShotMethod,
    dataset: Dataset,
    episodes: Sequence[Episode],
    processes: Processes,
    **settings: Any,
) -> Journal:
    """Where `evaluate` keeps finished batches; `settings` are its scoring, resize, fusion and batch."""
    about = {
        **settings,
        "method": fingerprint(method),
        "computed": f"{method.device.type} {method.dtype}",
        "dataset": dataset.name,
        "episodes": [dataclasses.astuple(episode) for episode in episodes],
    }
    return Journal(folder, about, processes.rank)


def _known(
    episodes: int, journal: Journal | None, processes: Processes
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Counts of the episodes that any process finds in its journal, the same in all processes, and which those are."""
    rows, holders = np.zeros((episodes, COUNTS)), np.zeros((processes.count, episodes))
    for number, row in (journal.read() if journal is not None else {}).items():
        rows[number], holders[processes.rank, number] = row, 1
    holders = processes.total(torch.from_numpy(holders)).numpy()
    # Processes that share a folder read the same files: each row is taken from the first that has it.
    rows[holders.argmax(0) != processes.rank] = 0
    return processes.total(torch.from_numpy(rows)).numpy(), np.asarray(holders.any(0))


def _read_ahead(read: Callable[[range], EpisodeBatch], groups: Sequence[range], workers: int) -> Iterator[EpisodeBatch]:
    """The batches in order, up to two for each thread read before they are asked for."""
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
    dataset: Dataset, episodes: Sequence[Episode], rows: NDArray[np.float64], **settings: Any
) -> EvaluationResult:
    meter, regions, scores, counts = IoUMeter(), RegionMeter(), [], []
    for episode, row in zip(episodes, rows, strict=True):
        inter, union = row[:2].astype(np.int64), row[2:4].astype(np.int64)
        rom, rum = float(row[4]), float(row[5])
        meter.add_counts(episode.class_id, inter, union)
        regions.add_values(episode.class_id, rom, rum)
        counts.append((episode.class_id, int(inter[1]), int(union[1])))
        scores.append(EpisodeScore(episode, float(inter[1] / max(union[1], 1)), rom, rum))
    found, apart = meter.scores(), regions.scores()
    return EvaluationResult(
        dataset=dataset.name,
        shots=len(episodes[0].support),
        miou=found.miou,
        miou_interval=bootstrap_interval(counts),
        fb_iou=found.fb_iou,
        class_iou={dataset.classes[c]: v for c, v in found.class_iou.items()},
        seconds_per_query=float(np.median(rows[:, 6])),
        scores=tuple(scores),
        rom=apart.rom,
        rum=apart.rum,
        **settings,
    )


def segment_episode(
    method: FewShotMethod,
    dataset: Dataset,
    episode: Episode,
    scoring: Scoring,
    fusion: Fusion = "one-pass",
    resize: Resize = "square",
) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Predicted mask and true mask of the query, both (H, W), and the seconds that the query took."""
    batch = read_batch(dataset, [episode], method.config.image_size, scoring=scoring, resize=resize)
    (predicted,), spent = segment_batch(method, batch, scoring=scoring, resize=resize, fusion=fusion)
    return predicted, batch.truths[0], spent


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
