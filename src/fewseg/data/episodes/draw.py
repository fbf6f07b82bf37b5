"""Which images make an episode: drawn once from a seed into lists that are saved, read and diffed."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from fewseg.core.bounds import MOST_AT_ONCE, bounded, check_number
from fewseg.core.choices import Queries
from fewseg.core.errors import InvalidDataset, InvalidOption, unknown
from fewseg.core.files import write_text
from fewseg.core.types import Episode
from fewseg.data.datasets.base import Dataset
from fewseg.data.datasets.benchmark import Benchmark

log = logging.getLogger(__name__)

MIN_IMAGES: Final = 5
"""A class with fewer usable images is not tested."""

_FORMAT: Final = "fewseg.episodes.1"


def split_classes(dataset: Dataset, fold: int, folds: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Base and novel class ids: novel where `id % folds == fold`, interleaved as in COCO-20i."""
    if folds < 1 or not 0 <= fold < folds:
        raise InvalidOption(f"fold {fold} of {folds}: choose a fold from 0 to folds - 1")
    ids = range(len(dataset.classes))
    return tuple(i for i in ids if i % folds != fold), tuple(i for i in ids if i % folds == fold)


def named_classes(dataset: Dataset, names: Sequence[str]) -> tuple[int, ...]:
    """The ids of classes given by name, sorted; suggests the nearest names for an unknown one."""
    for name in names:
        if name not in dataset.classes:
            raise unknown(f"class of {dataset.name}", name, dataset.classes)
    return tuple(sorted({dataset.classes.index(name) for name in names}))


def draw_test_episodes(
    dataset: Dataset,
    classes: Sequence[int],
    shots: int,
    per_class: int,
    seed: int,
    *,
    min_images: int = MIN_IMAGES,
) -> list[Episode]:
    """`per_class` episodes of every class.

    The query is never in its support, the supports of an episode are distinct, and queries of a class repeat only when
    all its images have been one. Lists of the same seed share queries, and fewer shots are the first of more. A class
    with fewer than `min_images` or `shots + 1` usable images is skipped, with a line in the log.
    """
    _check_shots(shots)
    check_number("episodes of a class", per_class)
    episodes = []
    for class_id in sorted(classes):
        names = dataset.names(class_id)
        if len(names) < max(min_images, shots + 1):
            log.info("%s: %s skipped, %d usable images", dataset.name, dataset.classes[class_id], len(names))
            continue
        queries: list[str] = []
        rng = np.random.default_rng([seed, class_id])
        while len(queries) < per_class:
            queries += [names[i] for i in rng.permutation(len(names))]
        for index, query in enumerate(queries[:per_class]):
            others = [name for name in names if name != query]
            order = np.random.default_rng([seed, class_id, index]).permutation(len(others))
            episodes.append(Episode(query, tuple(others[i] for i in order[:shots]), class_id))
    return episodes


def draw_training_episodes(
    dataset: Dataset,
    classes: Sequence[int],
    shots: int,
    count: int,
    seed: int,
    epoch: int,
    *,
    queries: Queries = "classes",
    small: Sequence[tuple[str, int]] = (),
    negative_episodes: float = 0.0,
) -> list[Episode]:
    """`count` episodes of one epoch: queries as `queries` says, each with distinct supports of its class.

    Classes need 2 images; where there are fewer than `shots + 1`, supports repeat. With `images` and `pairs` no query
    comes twice before all have come once. In a fraction `negative_episodes` of the episodes the query is a usable image
    of another class that does not show this one.

    Args:
        small: further (image, class) among which `images` draws a query's class; never supports.

    Raises:
        InvalidDataset: no class has 2 images.
    """
    _check_shots(shots)
    pools = _training_pools(dataset, classes)
    rng = np.random.default_rng([seed, epoch])
    episodes = []
    for _, (query, class_id) in zip(range(count), _queries(pools, queries, small, rng), strict=False):
        names = pools[class_id]
        others = [name for name in names if name != query]
        if negative_episodes and rng.random() < negative_episodes:
            query = _elsewhere(pools, class_id, rng) or query
        chosen = rng.choice(len(others), shots, replace=len(others) < shots)
        episodes.append(Episode(query, tuple(others[i] for i in chosen), class_id))
    return episodes


def count_queries(dataset: Dataset, classes: Sequence[int], queries: Queries) -> int:
    """How many queries there are to train on: (image, class) pairs, or with `images` and `classes` images."""
    pools = _training_pools(dataset, classes)
    return sum(map(len, pools.values())) if queries == "pairs" else len({name for p in pools.values() for name in p})


def _training_pools(dataset: Dataset, classes: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """The images of every class that has 2; raises `InvalidDataset` where none has."""
    pools = {class_id: dataset.names(class_id) for class_id in sorted(classes)}
    pools = {class_id: names for class_id, names in pools.items() if len(names) >= 2}
    if not pools:
        raise InvalidDataset(f"{dataset.name}: no class to train on has 2 usable images: add some, or lower min_area")
    return pools


def _queries(
    pools: Mapping[int, Sequence[str]], queries: Queries, small: Sequence[tuple[str, int]], rng: np.random.Generator
) -> Iterator[tuple[str, int]]:
    """(image, class) of the queries, without end."""
    if queries == "classes":
        ids = list(pools)
        while True:
            class_id = ids[int(rng.integers(len(ids)))]
            yield pools[class_id][int(rng.integers(len(pools[class_id])))], class_id
    pairs = [(name, class_id) for class_id, names in pools.items() for name in names]
    shown: dict[str, list[int]] = {}
    for name, class_id in pairs:
        shown.setdefault(name, []).append(class_id)
    for name, class_id in small:
        if name in shown and class_id in pools:
            shown[name].append(class_id)
    images = list(shown)
    while True:
        for place in rng.permutation(len(pairs if queries == "pairs" else images)):
            if queries == "pairs":
                yield pairs[place]
            else:
                held = shown[images[place]]
                yield images[place], held[int(rng.integers(len(held)))]


def _elsewhere(pools: Mapping[int, Sequence[str]], class_id: int, rng: np.random.Generator) -> str | None:
    """An image of another class, and not of this one; None where there is only this class."""
    held, others = set(pools[class_id]), [pool for other, pool in pools.items() if other != class_id]
    for _ in range(10 if others else 0):
        pool = others[int(rng.integers(len(others)))]
        name = pool[int(rng.integers(len(pool)))]
        if name not in held:
            return name
    return None


def _check_shots(shots: int) -> None:
    if shots < 1:
        raise InvalidOption(f"shots {shots}: give at least 1")
    check_number("shots", shots, MOST_AT_ONCE)


def save_episodes(path: str | os.PathLike[str], episodes: Sequence[Episode], dataset: Dataset, **about: Any) -> None:
    """Write a list as JSON, one episode a line, atomically; `about` (seed, shots, ...) goes on top."""
    rows = [
        json.dumps({"class": dataset.classes[e.class_id], "query": e.query, "support": list(e.support)})
        for e in episodes
    ]
    head = json.dumps({"format": _FORMAT, "dataset": dataset.name, **about})[:-1]
    write_text(path, f'{head}, "episodes": [\n' + ",\n".join(rows) + "\n]}\n")


def list_dataset(path: str | os.PathLike[str]) -> str:
    """The name of the dataset that a saved list was drawn from; raises `InvalidDataset` for any other file."""
    return str(_read(path)["dataset"])


def load_episodes(path: str | os.PathLike[str], dataset: Dataset) -> list[Episode]:
    """Read what `save_episodes` wrote; raises `InvalidDataset` where it does not fit the dataset."""
    try:
        rows = [(str(r["class"]), str(r["query"]), tuple(map(str, r["support"]))) for r in _read(path)["episodes"]]
    except (KeyError, TypeError) as error:
        raise InvalidDataset(f"{path} is a damaged episode list ({error!r}): draw it again") from error
    if not rows or len({len(support) for _, _, support in rows}) != 1:
        raise InvalidDataset(f"{path} must hold episodes, all with the same number of supports: draw it again")
    return [_checked(path, dataset, *row) for row in rows]


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        data = json.loads(bounded(path).read_text("utf-8"))
    except OSError as error:
        raise InvalidDataset(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidDataset(f"{path} is not JSON ({error}): give an episode list of fewseg") from error
    if not isinstance(data, dict) or data.get("format") != _FORMAT or not {"dataset", "episodes"} <= data.keys():
        raise InvalidDataset(f"{path} is not an episode list of fewseg: draw it again")
    return data


def _checked(
    path: str | os.PathLike[str], dataset: Dataset, class_name: str, query: str, support: tuple[str, ...]
) -> Episode:
    if class_name not in dataset.classes:
        raise InvalidDataset(f"{path}: {dataset.name} has no class {class_name!r}: give the dataset it was drawn from")
    class_id = dataset.classes.index(class_name)
    names = set(dataset.names(class_id))
    if isinstance(dataset, Benchmark) and dataset.shows(query, class_id):  # on few pixels, too
        names.add(query)
    for name in (query, *support):
        if name not in names:
            raise InvalidDataset(
                f"{path}: {dataset.name} has no usable image {name!r} of {class_name}: "
                "give the dataset and min_area it was drawn from"
            )
    if not support:
        raise InvalidDataset(f"{path}: an episode of {class_name} has no support: draw the list again")
    return Episode(query, support, class_id)
