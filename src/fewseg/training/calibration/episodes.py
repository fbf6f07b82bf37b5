"""Episodes that methods are prepared and calibrated with, drawn from training and from validation classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from fewseg.core.progress import ProgressCallback
from fewseg.core.types import Episode, EpisodeTensors
from fewseg.data.datasets.base import Dataset
from fewseg.data.episodes.tensors import TrainingSource, collate, episode_tensors
from fewseg.models.methods import FewShotMethod
from fewseg.training.data import ValidationSet

_IMAGES: Final = 512
"""Images of every source, about, and `_PER_CLASS` of a class at most: means hardly change with more."""

_PER_CLASS: Final = 8

Pair = tuple[ValidationSet, Episode, Episode]
"""A validation episode, and one with the same support whose query does not show the class."""


def class_examples(
    sources: Sequence[TrainingSource], *, size: int, seed: int, progress: ProgressCallback | None = None
) -> Iterator[tuple[float, list[EpisodeTensors]]]:
    """Weight and some images of every training class, for `FewShotMethod.prepare_training`.

    Every class of a source has the same weight, every source its own.

    Args:
        sources: the training data.
        size: side of the method's input.
        seed: decides which images are read.
        progress: called with images read and images that will be.
    """
    classes = [
        (source, weight, episodes)
        for number, source in enumerate(sources)
        if source.weight
        for weight, episodes in _examples_by_class(source, np.random.default_rng([seed, 8, number]))
    ]
    count, done = sum(len(episodes) for *_, episodes in classes), 0
    for source, weight, episodes in classes:
        examples = []
        for episode in episodes:
            examples.append(_read(source.dataset, episode, size))
            done += 1
            if progress is not None:
                progress(done, count, "")
        yield weight, examples


def _examples_by_class(source: TrainingSource, rng: np.random.Generator) -> list[tuple[float, list[Episode]]]:
    """Weight and some images, each as its own support, of every class that has images."""
    classes = [class_id for class_id in source.classes if source.dataset.names(class_id)]
    most = min(_PER_CLASS, max(1, _IMAGES // max(1, len(classes))))
    drawn = []
    for class_id in classes:
        names = source.dataset.names(class_id)
        chosen = [names[i] for i in rng.permutation(len(names))[:most]]
        drawn.append((source.weight / len(classes), [Episode(name, (name,), class_id) for name in chosen]))
    return drawn


def calibrate_method(
    method: FewShotMethod, sets: Sequence[ValidationSet], *, seed: int, negative_episodes: bool = False
) -> None:
    """Call the method's `calibrate` with validation episodes; `negative_episodes`: whether it was trained with some."""
    size = method.config.image_size
    episodes = (_read(part.dataset, episode, size) for part in sets for episode in part.episodes)

    def pairs() -> Iterator[tuple[EpisodeTensors, EpisodeTensors]]:  # reads masks only for methods that ask
        for part, positive, negative in with_negatives(sets, seed):
            yield _read(part.dataset, positive, size), _read(part.dataset, negative, size)

    # Models trained with negative episodes must keep predicting empty masks.
    method.calibrate(() if negative_episodes else episodes, pairs())


def with_negatives(sets: Sequence[ValidationSet], seed: int) -> list[Pair]:
    """Every validation episode, and the same support with a query that does not show its class.

    That is the query of an episode of another class; episodes for which there is none are left out.
    """
    pairs: list[Pair] = []
    for number, part in enumerate(sets):
        rng = np.random.default_rng([seed, 6, number])
        absent = {c: _queries_without(part, c) for c in {episode.class_id for episode in part.episodes}}
        for episode in part.episodes:
            if names := absent[episode.class_id]:
                negative = Episode(names[int(rng.integers(len(names)))], episode.support, episode.class_id)
                pairs.append((part, episode, negative))
    return pairs


def _queries_without(part: ValidationSet, class_id: int) -> list[str]:
    """Queries of other classes whose image does not show this one."""
    shown = set(part.dataset.names(class_id))
    names = {episode.query for episode in part.episodes if episode.class_id != class_id} - shown
    return sorted(name for name in names if not (part.dataset.mask(name, class_id) == 1).any())


def _read(dataset: Dataset, episode: Episode, size: int) -> EpisodeTensors:
    return collate([episode_tensors(dataset, episode, size)])
