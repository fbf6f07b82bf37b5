"""Score a method on a list of episodes, at the original size or at the model's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fewseg.datasets.base import Dataset
from fewseg.episodes.tensors import episode_tensors
from fewseg.evaluation.fusion import Fusion, fused_support, segment_fused
from fewseg.methods import FewShotMethod
from fewseg.metrics.iou import IoUMeter, intersection_and_union
from fewseg.ops.resize import resize
from fewseg.types import Episode

Scoring = Literal["original", "model"]


@dataclass(frozen=True)
class EpisodeScore:
    """One episode's foreground IoU, to find the best and the worst."""

    episode: Episode
    iou: float


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

    @property
    def episodes(self) -> int:
        return len(self.scores)

    def to_json(self) -> dict[str, Any]:
        """Everything but the single episodes, for `results.json`."""
        values = asdict(self)
        return {**{k: v for k, v in values.items() if k != "scores"}, "episodes": self.episodes}


def evaluate(
    method: FewShotMethod,
    dataset: Dataset,
    episodes: Sequence[Episode],
    *,
    scoring: Scoring = "original",
    fusion: Fusion = "one-pass",
    progress: Callable[[int, int], None] | None = None,
) -> EvaluationResult:
    """Segment the query of every episode and count.

    Args:
        method: on the device and in the dtype to measure; its `config.image_size` is the input's side.
        dataset: what the episodes' names refer to.
        episodes: at least one, all of the same number of shots.
        scoring: `original` resizes the logits to the query's own size, `model` compares at the model's size.
        fusion: how several shots become one prediction: `one-pass` is the method's own way; for the others see
            `fewseg.evaluation.fusion`.
        progress: called with episodes done and episodes in all.
    """
    meter, scores, seconds, counts = IoUMeter(), [], [], []
    for number, episode in enumerate(episodes):
        predicted, truth, spent = segment_episode(method, dataset, episode, scoring, fusion)
        inter, union = intersection_and_union(predicted, truth)
        meter.add_counts(episode.class_id, inter, union)
        counts.append((episode.class_id, int(inter[1]), int(union[1])))
        scores.append(EpisodeScore(episode, float(inter[1] / max(union[1], 1))))
        seconds.append(spent)
        if progress is not None:
            progress(number + 1, len(episodes))
    result = meter.scores()
    return EvaluationResult(
        dataset=dataset.name,
        shots=len(episodes[0].support),
        scoring=scoring,
        miou=result.miou,
        miou_interval=bootstrap_interval(counts),
        fb_iou=result.fb_iou,
        class_iou={dataset.classes[c]: v for c, v in result.class_iou.items()},
        seconds_per_query=float(np.median(seconds)),
        scores=tuple(scores),
        fusion=fusion,
    )


def segment_episode(
    method: FewShotMethod, dataset: Dataset, episode: Episode, scoring: Scoring, fusion: Fusion = "one-pass"
) -> tuple[NDArray[Any], NDArray[Any], float]:
    """Predicted mask and true mask of the query, both (H, W), and the seconds that the query took."""
    tensors = episode_tensors(dataset, episode, method.config.image_size)
    if scoring == "original":
        truth: NDArray[Any] = dataset.mask(episode.query, episode.class_id)
    else:
        truth = tensors.query_mask.numpy()
    with torch.inference_mode():
        support = fused_support(method, tensors.images[None], tensors.masks[None], fusion)
        started = time.perf_counter()
        logits = segment_fused(method, tensors.query[None], support).cpu()  # copying waits for a GPU to finish
        spent = time.perf_counter() - started
        predicted = resize(logits, (truth.shape[0], truth.shape[1])).argmax(1)[0].numpy()
    return predicted, truth, spent


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
