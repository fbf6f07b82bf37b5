"""Which queries are drawn in training: distributions against those that the lists themselves have."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.types import Episode
from fewseg.data.datasets.cached import CachedDataset
from fewseg.data.episodes.draw import count_queries, draw_training_episodes
from fewseg.data.episodes.tensors import TrainingEpisodes, TrainingSource


class Lists:
    """Names only: class 0 has most images, as person has in PASCAL; seven images show two classes."""

    name = "lists"
    classes = ("person", "cow", "sheep", "train")
    pools = (
        tuple(f"p{i}" for i in range(60)),
        (*(f"c{i}" for i in range(6)), *(f"p{i}" for i in range(6))),
        (*(f"s{i}" for i in range(9)), "p7"),
        tuple(f"t{i}" for i in range(20)),
    )

    def names(self, class_id: int) -> tuple[str, ...]:
        return self.pools[class_id]

    def image(self, name: str) -> Image.Image:
        return Image.new("RGB", (8, 8))

    def mask(self, name: str, class_id: int) -> NDArray[np.uint8]:
        return np.full((8, 8), [1, 1, 0, 0, 255, 255, 0, 0], np.uint8)

    def files(self, name: str) -> tuple[Path, ...]:
        return ()


DATA = Lists()
ALL = (0, 1, 2, 3)
PAIRS = [(name, c) for c in ALL for name in DATA.names(c)]
IMAGES = sorted({name for name, _ in PAIRS})


def _drawn(queries: str, count: int, epoch: int = 0, **more: object) -> list[Episode]:
    return draw_training_episodes(DATA, ALL, 2, count, 0, epoch, queries=queries, **more)  # type: ignore[arg-type]


def test_pairs_come_once_an_epoch_in_another_order() -> None:
    assert count_queries(DATA, ALL, "pairs") == len(PAIRS) == 102
    one, two = (_drawn("pairs", 102, epoch) for epoch in (0, 1))
    for epoch in (one, two):
        assert sorted((e.query, e.class_id) for e in epoch) == sorted(PAIRS)
    assert [e.query for e in one] != [e.query for e in two]
    assert Counter(e.class_id for e in one)[0] / 102 == len(DATA.names(0)) / len(PAIRS)
    twice = Counter((e.query, e.class_id) for e in _drawn("pairs", 150))
    assert set(twice.values()) == {1, 2}
    assert sum(twice.values()) == 150


def test_images_come_once_an_epoch_with_one_of_their_classes() -> None:
    assert count_queries(DATA, ALL, "images") == count_queries(DATA, ALL, "classes") == len(IMAGES) == 95
    epochs = [_drawn("images", 95, epoch) for epoch in range(80)]
    assert all(sorted(e.query for e in epoch) == IMAGES for epoch in epochs)
    shown = {name: [c for c in ALL if name in DATA.names(c)] for name in IMAGES}
    expected = np.array([sum((c in held) / len(held) for held in shown.values()) for c in ALL])
    drawn = np.bincount([e.class_id for epoch in epochs for e in epoch], minlength=4) / 80
    assert np.abs(drawn - expected).max() < 4 * 0.5 * np.sqrt(7 / 80)  # seven images choose between two classes
    assert set(zip([e.query for e in epochs[0]], [e.class_id for e in epochs[0]], strict=True)) <= set(PAIRS)


def test_classes_are_uniform_whatever_their_numbers_of_images() -> None:
    drawn = np.bincount([e.class_id for e in _drawn("classes", 4000)], minlength=4)
    assert np.abs(drawn - 1000).max() < 4 * np.sqrt(4000 * 0.25 * 0.75)


def test_small_objects_are_queries_and_never_supports() -> None:
    small = (("t0", 1), ("c0", 2), ("elsewhere", 1))
    drawn = [e for epoch in range(60) for e in _drawn("images", 95, epoch, small=small)]
    of_two = Counter(e.class_id for e in drawn if e.query == "t0")
    assert of_two.total() == 60
    assert 15 < of_two[1] < 45, "drawn as often as the large object of the image"
    assert all(name in DATA.names(e.class_id) for e in drawn for name in e.support)
    assert not any(e.query == "elsewhere" for e in drawn), "no image is trained on for its small objects alone"
    assert not any((e.query, e.class_id) in small for e in _drawn("images", 95))


@pytest.mark.parametrize("queries", ["classes", "images", "pairs"])
def test_supports_are_other_images_of_the_class(queries: str) -> None:
    for episode in _drawn(queries, 200):
        assert episode.query not in episode.support
        assert len(set(episode.support)) == 2
        assert set(episode.support) <= set(DATA.names(episode.class_id))


def test_ignored_pixels_can_be_background() -> None:
    for as_background, values in ((False, {0, 1, 255}), (True, {0, 1})):
        cached = CachedDataset(DATA, ignored_as_background=as_background)
        assert set(np.unique(cached.mask("p0", 0))) == values
        episodes = TrainingEpisodes(
            [TrainingSource(cached, ALL)], shots=(1,), queries="pairs", per_epoch=102, epochs=1, size=8, seed=0
        )
        assert set(episodes[0].query_mask.unique().tolist()) == values
        assert set(episodes[0].masks.unique().tolist()) == {0.0, 1.0}
