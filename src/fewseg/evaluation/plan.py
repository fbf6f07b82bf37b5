"""From datasets, folds, seeds and numbers of shots to the episode lists of an evaluation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fewseg.core.errors import InvalidDataset
from fewseg.core.types import Episode
from fewseg.data.datasets.base import Dataset
from fewseg.data.datasets.benchmark import Benchmark
from fewseg.data.episodes.draw import MIN_IMAGES, draw_test_episodes, list_dataset, load_episodes, split_classes
from fewseg.data.episodes.draw_published import Pairs, draw_coco, draw_fss, draw_pascal, draw_walk, pools_of
from fewseg.data.episodes.sources import BENCHMARKS, open_source
from fewseg.evaluation.protocols import Protocol


@dataclass(frozen=True)
class Target:
    """A dataset and the classes of it to test."""

    dataset: Dataset
    novel: tuple[int, ...]
    fold: int | None = None

    @property
    def benchmark(self) -> str | None:
        """The published benchmark that this is a fold of."""
        whole = isinstance(self.dataset, Benchmark) and self.dataset.fold is not None
        return self.dataset.word if whole and isinstance(self.dataset, Benchmark) else None


@dataclass(frozen=True)
class Trial:
    """One list of episodes to run."""

    target: Target
    episodes: list[Episode]
    stem: str
    """Part of the names of its files."""
    seed: int | None = None

    @property
    def shots(self) -> int:
        return len(self.episodes[0].support)


def open_targets(
    specs: Sequence[str], protocol: Protocol, *, fold: Sequence[int] = (), folds: int = 4, min_area: float = 0.0
) -> list[Target]:
    """The targets of dataset specs as written on the command line, each fold apart.

    `fold` is for specs without @; without it a benchmark is tested on all its folds, another dataset on all classes.

    Raises:
        InvalidDataset, InvalidOption: see `open_source`; two datasets would write the same files.
    """
    targets = []
    for spec in specs:
        name, _, rest = spec.partition(":")
        kind = BENCHMARKS.get(name)
        place = spec if kind is None else rest
        divided = "@" in place and not Path(place).exists()
        numbers: Sequence[int | None] = fold or ((None,) if kind is None else range(kind.folds))
        first = open_source(spec, fold=numbers[0], folds=folds, min_area=min_area, selection=protocol.selection)
        own = first.dataset.fold if isinstance(first.dataset, Benchmark) else None if divided else numbers[0]
        targets.append(Target(first.dataset, first.novel, own))
        targets += [_other_fold(first.dataset, number, folds) for number in numbers[1:] if not divided]
    _check_names(targets, several=len(fold) > 1)
    return targets


def _other_fold(dataset: Dataset, number: int | None, folds: int) -> Target:
    fold = number or 0
    if isinstance(dataset, Benchmark):
        return Target(dataset.opened(fold=fold), dataset.novel(fold), fold)
    return Target(dataset, split_classes(dataset, fold, folds)[1], fold)


def draw_trials(targets: Sequence[Target], protocol: Protocol, shots: Sequence[int]) -> list[Trial]:
    """Every target with every seed and number of shots.

    Raises:
        InvalidDataset: too few images. InvalidOption: a number of shots below 1.
    """
    several = len({target.fold for target in targets}) > 1
    trials = []
    for target in targets:
        for number in shots:
            for seed in protocol.seeds:
                episodes = _draw(target, protocol, number, max(shots), seed)
                parts = [_stem(target.dataset)]
                if several and not isinstance(target.dataset, Benchmark) and target.fold is not None:
                    parts.append(f"fold{target.fold}")
                parts += [f"{number}shot", *([f"seed{seed}"] if len(protocol.seeds) > 1 else [])]
                trials.append(Trial(target, episodes, "_".join(parts), seed))
    return trials


def read_trials(paths: Sequence[Path], targets: Sequence[Target]) -> list[Trial]:
    """Saved episode lists, with the datasets that they were drawn from; files of the same name parts are numbered."""
    seen: Counter[str] = Counter()
    trials = []
    for path in paths:
        name = list_dataset(path)
        named = [target for target in targets if target.dataset.name == name]
        if not named:
            raise InvalidDataset(f"{path} was drawn from a dataset named {name}: give its folder with --data")
        episodes = load_episodes(path, named[0].dataset)
        tested = {episode.class_id for episode in episodes}  # all folds of a folder share its name
        target = next((target for target in named if tested <= set(target.novel)), named[0])
        stem = f"{_stem(target.dataset)}_{len(episodes[0].support)}shot"
        seen[stem] += 1
        trials.append(Trial(target, episodes, stem if seen[stem] == 1 else f"{stem}_{seen[stem]}"))
    return trials


def listed_pairs(target: Target) -> Pairs:
    """(image, class) to test: the benchmark's list, or of any other dataset one image of each class in turn."""
    dataset = target.dataset
    if isinstance(dataset, Benchmark) and dataset.fold is not None and set(target.novel) <= dataset.held_out:
        return dataset.test_pairs(dataset.fold)
    rows = [
        (number, class_id, name) for class_id in target.novel for number, name in enumerate(dataset.names(class_id))
    ]
    return [(name, class_id) for _, class_id, name in sorted(rows)]


def _draw(target: Target, protocol: Protocol, shots: int, most: int, seed: int) -> list[Episode]:
    count = protocol.count(target.benchmark)
    if protocol.draw == "class-by-class":
        return _class_by_class(target, shots, most, count or 1, seed)
    pairs = listed_pairs(target)
    count = count or len(pairs)
    if protocol.draw == "walk":
        return _walk(target, pairs, shots, count, seed, small=protocol.small_queries)
    if target.benchmark == "pascal5i":
        return draw_pascal(pairs, shots, count, seed)
    pools = pools_of(pairs)
    if target.benchmark == "fss1000":
        named = sorted(pools.items(), key=lambda pool: target.dataset.classes[pool[0]])
        return draw_fss(dict(named), shots, count, seed)
    return draw_coco(pools, shots, count, seed)


def _walk(target: Target, pairs: Pairs, shots: int, count: int, seed: int, *, small: bool) -> list[Episode]:
    """Published lists of images are walked in their own order.

    Of those that run class by class, as pickles and computed lists of COCO do, the first images would show the first
    classes only: their images are sorted.
    """
    dataset = target.dataset
    if not isinstance(dataset, Benchmark):
        return draw_walk(pairs, shots, count, seed)
    by_class = dataset.class_by_class and all(a[1] <= b[1] for a, b in pairwise(pairs))
    further = dataset.small_pairs(target.novel) if small else ()
    return draw_walk(sorted(pairs) if by_class else pairs, shots, count, seed, small=further)


def _class_by_class(target: Target, shots: int, most: int, per_class: int, seed: int) -> list[Episode]:
    # The most shots decide which classes have enough images, so that all numbers of shots test the same.
    least = max(MIN_IMAGES, most + 1)
    episodes = draw_test_episodes(target.dataset, target.novel, shots, per_class, seed, min_images=least)
    if not episodes:
        raise InvalidDataset(
            f"{target.dataset.name}: no novel class has {least} usable images: add some, lower --min-area or --shots"
        )
    return episodes


def _check_names(targets: Sequence[Target], several: bool) -> None:
    """Raise `InvalidDataset` where two would share their lines in the tables and their files."""
    seen: dict[tuple[str, int | None], str] = {}
    for target in targets:
        key = _stem(target.dataset), target.fold if several else None
        if key in seen:
            both = f"{seen[key]} and {target.dataset.name}"
            raise InvalidDataset(f"two datasets would write the same files ({both}): evaluate each into its own --out")
        seen[key] = target.dataset.name


def _stem(dataset: Dataset) -> str:
    """The dataset's name as part of a file's."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", dataset.name)
