"""Training and validation data of a config: base classes only, and validation classes carved out of them."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from fewseg.core.distributed import SINGLE_PROCESS, Processes
from fewseg.core.errors import FewsegError, InvalidDataset
from fewseg.core.types import Episode, EpisodeTensors
from fewseg.data.datasets.base import Dataset
from fewseg.data.datasets.benchmark import Benchmark
from fewseg.data.datasets.cached import CachedDataset
from fewseg.data.datasets.fss1000 import Fss1000
from fewseg.data.episodes.draw import MIN_IMAGES, count_queries, draw_test_episodes
from fewseg.data.episodes.sources import OpenSource, open_source
from fewseg.data.episodes.tensors import TrainingEpisodes, TrainingSource
from fewseg.data.episodes.views import VIEWS
from fewseg.evaluation.plan import Target, draw_trials
from fewseg.evaluation.protocols import choose_protocol
from fewseg.evaluation.scoring import EvaluationSettings
from fewseg.models.methods import METHODS, FewShotMethod
from fewseg.training.batches import EpisodeImages, gather, shard_items
from fewseg.training.config import TrainConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationSet:
    """Fixed episodes of classes that are not trained on."""

    dataset: Dataset
    episodes: tuple[Episode, ...]
    settings: EvaluationSettings = EvaluationSettings(scoring="model")
    """How images come to the input's size, and at which size predictions are compared."""

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
    how: dict[str, Any] = {
        "fold": config.fold,
        "folds": config.folds,
        "min_area": config.min_area,
        "selection": config.selection,
    }
    opened = [open_source(text, **how) for text in config.data]
    return divide(opened, weights, config)


def divide(opened: Sequence[OpenSource], weights: Sequence[float], config: TrainConfig) -> TrainingData:
    """Carve validation classes out of the base classes of every dataset; novel classes are in neither part.

    With `validate_on` novel or test, as in the papers' code, all base classes are trained on, novel ones validated on.
    """
    sources: list[TrainingSource] = []
    validation: list[ValidationSet] = []
    for number, (source, weight) in enumerate(zip(opened, weights, strict=True)):
        held = validation_classes(source, config, number) if config.validate_on == "base" else _held_out(source, config)
        base = tuple(c for c in source.base if c not in held)
        if not any(len(source.dataset.names(c)) >= 2 for c in base):
            raise InvalidDataset(
                f"{source.dataset.name}: no base class is left to train on ({len(held)} kept for validation): "
                "lower validation_classes or min_area, or keep fewer classes out"
            )
        log.info("%s: training on %d classes, validating on %d", source.dataset.name, len(base), len(held))
        sources.append(_training_source(source.dataset, base, weight, config))
        by_protocol = config.validate_on == "test"
        validation += (_test_sets if by_protocol else _validation_sets)(source.dataset, held, config)
    return TrainingData(tuple(sources), tuple(validation))


def _training_source(dataset: Dataset, base: tuple[int, ...], weight: float, config: TrainConfig) -> TrainingSource:
    cached = CachedDataset(dataset, config.cache_megabytes, ignored_as_background=config.ignored_pixels == "background")
    small = dataset.small_pairs(base) if config.small_queries and isinstance(dataset, Benchmark) else ()
    return TrainingSource(cached, base, weight, small)


def with_epoch(config: TrainConfig, data: TrainingData) -> TrainConfig:
    """The config with as many episodes in an epoch as the data have queries, where it leaves that open.

    Raises `InvalidOption` where they are fewer than a batch, unless the last batch is kept.
    """
    if config.episodes_per_epoch:
        return config
    count = sum(count_queries(source.dataset, source.classes, config.queries) for source in data.sources)
    return replace(config, episodes_per_epoch=count)


def _validation_sets(dataset: Dataset, held: Sequence[int], config: TrainConfig) -> Iterator[ValidationSet]:
    """One of the least and one of the largest number of shots."""
    if not held or not config.validation_episodes:
        return
    per_class = -(-config.validation_episodes // len(held))
    for shots in sorted({min(config.shots), max(config.shots)}):
        drawn = draw_test_episodes(dataset, held, shots, per_class, config.seed)
        if not drawn:
            least = max(MIN_IMAGES, shots + 1)
            raise InvalidDataset(f"{dataset.name}: no class to validate on has {least} usable images")
        # One of each class after the other: cutting the list leaves every class its share.
        mixed = [drawn[i] for k in range(per_class) for i in range(k, len(drawn), per_class)]
        yield ValidationSet(dataset, tuple(mixed[: config.validation_episodes]))


def _test_sets(dataset: Dataset, held: Sequence[int], config: TrainConfig) -> Iterator[ValidationSet]:
    """Episodes of the method's test protocol, of its first seed, for the least and the largest number of shots."""
    if not config.validation_episodes:
        return
    name = METHODS.get(config.method, FewShotMethod).benchmark_protocol
    protocol = choose_protocol(name, count=config.validation_episodes)
    protocol = replace(protocol, seeds=protocol.seeds[:1])
    target = Target(dataset, tuple(held), dataset.fold if isinstance(dataset, Benchmark) else None)
    for trial in draw_trials([target], protocol, sorted({min(config.shots), max(config.shots)})):
        yield ValidationSet(dataset, tuple(trial.episodes), protocol.settings())


def validation_classes(source: OpenSource, config: TrainConfig, number: int) -> tuple[int, ...]:
    """Some base classes with enough images, drawn by the seed; never so many that fewer than two stay."""
    least = max(MIN_IMAGES, max(config.shots) + 1)
    enough = [c for c in source.base if len(source.dataset.names(c)) >= least]
    wanted = config.validation_classes_of(number)
    count = min(wanted, len(enough), max(0, len(source.base) - 2))
    if count < wanted and config.validation_episodes:
        log.warning(
            "%s: %d classes to validate on in place of %d, as two have to stay to train on and %d have enough images",
            *(source.dataset.name, count, wanted, len(enough)),
        )
    rng = np.random.default_rng([config.seed, number, 3])
    return tuple(sorted(int(c) for c in rng.permutation(enough)[:count]))


def _held_out(source: OpenSource, config: TrainConfig) -> tuple[int, ...]:
    """The novel classes, or those on which the papers choose their checkpoint; raises where they are trained on."""
    dataset = source.dataset
    if config.validate_on == "test" and isinstance(dataset, Fss1000) and dataset.fold is not None:
        return dataset.validation()
    if not source.novel or set(source.novel) & set(source.base):
        raise InvalidDataset(
            f"{source.dataset.name} has no novel classes apart from those trained on: name them behind @, give a fold, "
            "or leave out validate_on"
        )
    log.warning(
        "%s: validating on the %d test classes, as the papers' code does: the checkpoint is chosen by what it is to be "
        "tested on, and scores on these classes are not those of classes never seen",
        source.dataset.name,
        len(source.novel),
    )
    return source.novel


class _MicroBatches(Sampler[list[int]]):
    """This process's micro-batches from step `start` to the end, in order."""

    def __init__(self, config: TrainConfig, processes: Processes, start: int) -> None:
        self.config, self.processes, self.start = config, processes, start

    def __iter__(self) -> Iterator[list[int]]:
        return map(list, shard_items(self.config, self.processes, self.start))


_Read = tuple[EpisodeTensors, tuple[Hashable, ...]]
"""An episode, and names for its images: equal ones for the same view of the same image."""


class _Carried(torch.utils.data.Dataset[_Read | FewsegError]):
    """Training episodes, what a person can mend as a value: the loader would retell an exception as a traceback."""

    def __init__(self, episodes: TrainingEpisodes) -> None:
        self.episodes = episodes

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, index: int) -> _Read | FewsegError:
        try:
            tensors = self.episodes[index]
        except FewsegError as error:
            return error
        source, episode = self.episodes.episode(index)
        names = (episode.query, *episode.support)
        if self.episodes.augmentation is None and self.episodes.partner(index) is None:
            return tensors, tuple((source, name) for name in names)
        return tensors, tuple((index, place) for place in range(len(names)))


def _collate(items: Sequence[_Read | FewsegError]) -> EpisodeImages | FewsegError:
    """A batch, or the first thing that is wrong with it."""
    read = [item for item in items if not isinstance(item, FewsegError)]
    if len(read) < len(items):
        return next(item for item in items if isinstance(item, FewsegError))
    return gather([tensors for tensors, _ in read], [names for _, names in read])


def training_batches(
    sources: Sequence[TrainingSource],
    config: TrainConfig,
    size: int,
    *,
    start: int,
    pin: bool,
    processes: Processes = SINGLE_PROCESS,
) -> Iterator[EpisodeImages]:
    """This process's parts of the batches of all steps from `start` to the end, the same for any number of workers.

    Raises, while they are read, what reading their images raised, from a worker too.
    """
    for batch in _loader(sources, config, size, _MicroBatches(config, processes, start), pin):
        if isinstance(batch, FewsegError):
            raise batch
        yield batch


def training_episodes(sources: Sequence[TrainingSource], config: TrainConfig, size: int) -> TrainingEpisodes:
    """All episodes of a run."""
    return TrainingEpisodes(
        sources,
        shots=config.shots,
        batch=config.batch_size,
        queries=config.queries,
        negative_episodes=config.negative_episodes,
        splice=config.splice,
        per_epoch=config.epoch_episodes,
        epochs=config.epochs,
        size=size,
        seed=config.seed,
        augmentation=VIEWS[config.augment],
    )


def _loader(
    sources: Sequence[TrainingSource], config: TrainConfig, size: int, batches: _MicroBatches, pin: bool
) -> DataLoader[Any]:
    """Of what `_collate` makes."""
    episodes = training_episodes(sources, config, size)
    for source in sources:  # read the index once, before the workers copy it
        source.dataset.names(source.classes[0])
    return DataLoader(
        _Carried(episodes),
        batch_sampler=batches,
        num_workers=config.workers,
        collate_fn=_collate,
        pin_memory=pin,
        prefetch_factor=4 if config.workers else None,
        generator=torch.Generator().manual_seed(config.seed),
    )
