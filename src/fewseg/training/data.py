"""Training and validation data of a config: base classes only, and validation classes carved out of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from fewseg.datasets.base import Dataset
from fewseg.datasets.cached import CachedDataset
from fewseg.episodes.draw import MIN_IMAGES, draw_test_episodes
from fewseg.episodes.sources import OpenSource, open_source
from fewseg.episodes.tensors import EpisodeTensors, TrainingEpisodes, TrainingSource, collate
from fewseg.episodes.views import VIEWS
from fewseg.errors import FewsegError, InvalidDataset
from fewseg.training.config import TrainConfig
from fewseg.types import Episode

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationSet:
    """Fixed episodes of classes that are not trained on."""

    dataset: Dataset
    episodes: tuple[Episode, ...]

    @property
    def name(self) -> str:
        """The dataset and, in words, the number of shots."""
        return f"{self.dataset.name}.{len(self.episodes[0].support)}-shot"


@dataclass(frozen=True)
class TrainingData:
    """What a run reads."""

    sources: tuple[TrainingSource, ...]
    validation: tuple[ValidationSet, ...]


def open_data(config: TrainConfig) -> TrainingData:
    """Open the datasets of a config; raises `InvalidDataset` where nothing is left to train on."""
    weights = config.weights or (1.0,) * len(config.data)
    opened = [open_source(t, fold=config.fold, folds=config.folds, min_area=config.min_area) for t in config.data]
    return divide(opened, weights, config)


def divide(opened: Sequence[OpenSource], weights: Sequence[float], config: TrainConfig) -> TrainingData:
    """Carve validation classes out of the base classes of every dataset; novel classes are in neither part."""
    sources, validation = [], []
    for number, (source, weight) in enumerate(zip(opened, weights, strict=True)):
        held = validation_classes(source, config, number)
        base = tuple(c for c in source.base if c not in held)
        if not any(len(source.dataset.names(c)) >= 2 for c in base):
            raise InvalidDataset(
                f"{source.dataset.name}: no base class is left to train on ({len(held)} kept for validation): "
                "lower validation_classes or min_area, or keep fewer classes out"
            )
        LOG.info("%s: training on %d classes, validating on %d", source.dataset.name, len(base), len(held))
        sources.append(TrainingSource(CachedDataset(source.dataset, config.cache_megabytes), base, weight))
        if held and config.validation_episodes:
            per_class = -(-config.validation_episodes // len(held))
            for shots in sorted({min(config.shots), max(config.shots)}):
                drawn = draw_test_episodes(source.dataset, held, shots, per_class, config.seed)
                # One of each class after the other: cutting the list leaves every class its share.
                mixed = [drawn[i] for k in range(per_class) for i in range(k, len(drawn), per_class)]
                validation.append(ValidationSet(source.dataset, tuple(mixed[: config.validation_episodes])))
    return TrainingData(tuple(sources), tuple(validation))


def validation_classes(source: OpenSource, config: TrainConfig, number: int) -> tuple[int, ...]:
    """Some base classes with enough pictures, drawn by the seed; never so many that fewer than two stay."""
    least = max(MIN_IMAGES, max(config.shots) + 1)
    enough = [c for c in source.base if len(source.dataset.names(c)) >= least]
    count = min(config.validation_classes_of(number), len(enough), max(0, len(source.base) - 2))
    rng = np.random.default_rng([config.seed, number, 3])
    return tuple(sorted(int(c) for c in rng.permutation(enough)[:count]))


class _From(Sampler[int]):
    """Items from `start` to the end, in order."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(range(self.start, self.stop))

    def __len__(self) -> int:
        return max(0, self.stop - self.start)


class _Carried(torch.utils.data.Dataset[EpisodeTensors | FewsegError]):
    """Training episodes, what a person can mend as a value: the loader would retell an exception as a traceback."""

    def __init__(self, episodes: TrainingEpisodes) -> None:
        self.episodes = episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> EpisodeTensors | FewsegError:
        try:
            return self.episodes[index]
        except FewsegError as error:
            return error


def _collate(items: Sequence[EpisodeTensors | FewsegError]) -> EpisodeTensors | FewsegError:
    """A batch, or the first thing that is wrong with it."""
    read = [item for item in items if isinstance(item, EpisodeTensors)]
    return collate(read) if len(read) == len(items) else next(i for i in items if isinstance(i, FewsegError))


def training_batches(
    sources: Sequence[TrainingSource], config: TrainConfig, size: int, *, start: int, pin: bool
) -> Iterator[EpisodeTensors]:
    """The batches of all steps from `start` to the end of the run, the same for any number of workers.

    Raises, while they are read, what reading their pictures raised, from a worker too.
    """
    for batch in _loader(sources, config, size, start=start, pin=pin):
        if isinstance(batch, FewsegError):
            raise batch
        yield batch


def training_episodes(sources: Sequence[TrainingSource], config: TrainConfig, size: int) -> TrainingEpisodes:
    """All episodes of a run."""
    return TrainingEpisodes(
        sources,
        shots=config.shots,
        batch=config.batch,
        absent=config.absent,
        per_epoch=config.steps_per_epoch * config.batch,
        epochs=config.epochs,
        size=size,
        seed=config.seed,
        augmentation=VIEWS[config.augment],
    )


def _loader(
    sources: Sequence[TrainingSource], config: TrainConfig, size: int, *, start: int, pin: bool
) -> DataLoader[EpisodeTensors | FewsegError]:
    episodes = training_episodes(sources, config, size)
    for source in sources:  # read the index once, before the workers copy it
        source.dataset.names(source.classes[0])
    return DataLoader(
        _Carried(episodes),
        batch_size=config.batch,
        sampler=_From(start * config.batch, len(episodes)),
        num_workers=config.workers,
        collate_fn=_collate,
        pin_memory=pin,
        prefetch_factor=4 if config.workers else None,
        generator=torch.Generator().manual_seed(config.seed),
    )
