"""Episodes as the papers' released code draws them, from pools of images.

DCAMA and HSNet draw with numpy's legacy generator, one `choice(pool, 1, replace=False)[0]` after the other, and throw a
support away that is the query; a support may come twice. Their numbers were measured with seed 0, one process and batch
size 1: with the published lists as pools these functions give the very same episodes. SCCAN walks the images instead,
and no support of an episode comes twice; which random numbers it drew is not published, so seeds stand for seeds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from fewseg.core.errors import InvalidDataset, InvalidOption
from fewseg.core.types import Episode

Pairs = Sequence[tuple[str, int]]
"""A test list: image name and class id, in its own order; an image with two classes comes twice."""
Pools = Mapping[int, Sequence[str]]
"""Class id to the names of its images, in the order of the list."""


def pools_of(pairs: Pairs) -> dict[int, list[str]]:
    """The images of every class, classes and images in the list's order."""
    pools: dict[int, list[str]] = {}
    for name, class_id in pairs:
        pools.setdefault(class_id, []).append(name)
    return pools


def draw_pascal(pairs: Pairs, shots: int, count: int, seed: int = 0) -> list[Episode]:
    """PASCAL-5i of HSNet and DCAMA: the query walks the list cyclically, supports come from the same class."""
    pools = _checked(pools_of(pairs), shots, count)
    rng = np.random.RandomState(seed)
    walk = (pairs[index % len(pairs)] for index in range(count))
    return [Episode(name, _supports(rng, name, pools[class_id], shots), class_id) for name, class_id in walk]


def draw_coco(pools: Pools, shots: int, count: int, seed: int = 0) -> list[Episode]:
    """COCO-20i of HSNet and DCAMA: a class (of the sorted ids) uniformly, a query, then supports."""
    pools = _checked(pools, shots, count)
    rng, classes, episodes = np.random.RandomState(seed), sorted(pools), []
    for _ in range(count):
        class_id = classes[_index(rng, len(classes))]
        query = pools[class_id][_index(rng, len(pools[class_id]))]
        episodes.append(Episode(query, _supports(rng, query, pools[class_id], shots), class_id))
    return episodes


def draw_fss(pools: Pools, shots: int, count: int | None = None, seed: int = 0) -> list[Episode]:
    """FSS-1000 of HSNet and DCAMA: every image is the query once, supports come from the class's others.

    Classes in the order of `pools` (the benchmark's: by name), queries in the string order of their file names (1, 10,
    2, ...), while supports are drawn by number; `count` takes the first episodes only.
    """
    queries = [(name, class_id) for class_id, names in pools.items() for name in sorted(names)]
    count = len(queries) if count is None else count
    numbered = {class_id: sorted(names, key=_number) for class_id, names in _checked(pools, shots, count).items()}
    rng = np.random.RandomState(seed)
    walk = (queries[index % len(queries)] for index in range(count))
    return [Episode(name, _supports(rng, name, numbered[class_id], shots), class_id) for name, class_id in walk]


def draw_walk(pairs: Pairs, shots: int, count: int, seed: int = 0, *, small: Pairs = ()) -> list[Episode]:
    """SCCAN's: the query walks the *images* cyclically, its class is drawn among those it holds, supports differ.

    Lists of one seed share queries and classes whatever the number of shots, as long as every class has images for
    the most, and fewer shots are the first of more. Classes with fewer than `shots + 1` images are left out. `small`
    are further (image, class) that the images hold: queries, but never supports.
    """
    pools = {class_id: names for class_id, names in pools_of(pairs).items() if len(names) > shots}
    _checked(pools, shots, count)
    held: dict[str, list[int]] = {}
    for name, class_id in pairs:
        if class_id in pools:
            held.setdefault(name, []).append(class_id)
    for name, class_id in small:
        if name in held and class_id in pools:
            held[name].append(class_id)
    images, episodes = list(held), []
    for index in range(count):
        query = images[index % len(images)]
        rng = np.random.default_rng([seed, index])
        class_id = held[query][int(rng.integers(len(held[query])))]
        others = [name for name in pools[class_id] if name != query]
        chosen = rng.permutation(len(others))[:shots]
        episodes.append(Episode(query, tuple(others[i] for i in chosen), class_id))
    return episodes


def _checked(pools: Pools, shots: int, count: int) -> Pools:
    if shots < 1 or count < 1:
        raise InvalidOption(f"shots {shots}, {count} episodes: give at least 1 of each")
    if not pools:
        raise InvalidDataset(f"no class to test has {shots + 1} images: give a fold that has, or fewer shots")
    for class_id, names in pools.items():
        if len(set(names)) < 2:
            raise InvalidDataset(f"class {class_id} has {len(set(names))} test images: an episode needs 2 or more")
    return pools


def _index(rng: np.random.RandomState, size: int) -> int:
    """What `choice(pool, 1, replace=False)` picks, without making an array of names of the pool."""
    return int(rng.choice(size, 1, replace=False)[0])


def _supports(rng: np.random.RandomState, query: str, pool: Sequence[str], shots: int) -> tuple[str, ...]:
    chosen: list[str] = []
    while len(chosen) < shots:
        name = pool[_index(rng, len(pool))]
        if name != query:
            chosen.append(name)
    return tuple(chosen)


def _number(name: str) -> tuple[int, str]:
    """Images are numbered from 1: `abacus/10.jpg` comes after `abacus/9.jpg`."""
    digits = re.findall(r"\d+", name.rsplit("/", 1)[-1])
    return int(digits[0]) if digits else 0, name
