"""Episode lists and their tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fewseg.core.errors import InvalidDataset, InvalidOption, OutputError
from fewseg.core.types import IGNORE
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.augment import Augmentation
from fewseg.data.episodes.draw import (
    draw_test_episodes,
    draw_training_episodes,
    load_episodes,
    named_classes,
    save_episodes,
    split_classes,
)
from fewseg.data.episodes.tensors import TrainingEpisodes, TrainingSource, collate, episode_tensors, episode_views
from fewseg.data.episodes.views import VIEWS

DATA = SyntheticDataset(per_class=7, size=48)


def test_classes_of_a_fold() -> None:
    base, novel = split_classes(DATA, 1, 4)
    assert novel == (1, 5, 9, 13, 17, 21, 25, 29)
    assert sorted(base + novel) == list(range(32))
    with pytest.raises(InvalidOption, match="fold 4 of 4"):
        split_classes(DATA, 4, 4)
    assert named_classes(DATA, ["striped star", "plain disc"]) == (0, 13)
    with pytest.raises(InvalidOption, match="did you mean 'striped star'"):
        named_classes(DATA, ["stripd star"])


def test_test_episodes() -> None:
    one = draw_test_episodes(DATA, (0, 3), 1, 10, seed=5)
    five = draw_test_episodes(DATA, (0, 3), 5, 10, seed=5)
    assert len(one) == len(five) == 20
    assert [e.query for e in one] == [e.query for e in five]
    assert [e.support[0] for e in one] == [e.support[0] for e in five]
    for episode in five:
        assert episode.query not in episode.support
        assert len(set(episode.support)) == 5
        assert {episode.query, *episode.support} <= set(DATA.names(episode.class_id))
    assert len({e.query for e in one[:7]}) == 7, "queries repeat only when all images have been one"
    assert one == draw_test_episodes(DATA, (3, 0), 1, 10, seed=5)
    assert one != draw_test_episodes(DATA, (0, 3), 1, 10, seed=6)


def test_classes_with_too_few_images_are_skipped() -> None:
    few = SyntheticDataset(per_class=4, size=48)
    assert draw_test_episodes(few, (0,), 1, 10, seed=0) == []
    assert len(draw_test_episodes(few, (0,), 1, 10, seed=0, min_images=2)) == 10
    assert draw_test_episodes(SyntheticDataset(per_class=5, size=48), (0,), 5, 10, seed=0) == []


def test_training_episodes() -> None:
    first = draw_training_episodes(DATA, (0, 1, 2), 2, 50, seed=0, epoch=0)
    assert first == draw_training_episodes(DATA, (0, 1, 2), 2, 50, seed=0, epoch=0)
    assert first != draw_training_episodes(DATA, (0, 1, 2), 2, 50, seed=0, epoch=1)
    assert {e.class_id for e in first} == {0, 1, 2}
    assert all(e.query not in e.support and len(set(e.support)) == 2 for e in first)
    few = draw_training_episodes(SyntheticDataset(per_class=2, size=48), (0,), 3, 5, seed=0, epoch=0)
    assert all(len(e.support) == 3 and e.query not in e.support for e in few)
    with pytest.raises(InvalidDataset, match="2 usable images"):
        draw_training_episodes(SyntheticDataset(per_class=1, size=48), (0,), 1, 5, seed=0, epoch=0)


def test_lists_are_saved_and_read(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    episodes = draw_test_episodes(DATA, (0, 3), 2, 4, seed=5)
    save_episodes(path, episodes, DATA, seed=5, shots=2)
    assert load_episodes(path, DATA) == episodes
    text = path.read_text()
    assert json.loads(text)["seed"] == 5
    assert len(text.splitlines()) == len(episodes) + 2, "one episode a line, so that lists can be compared"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_lists(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    with pytest.raises(InvalidDataset, match="cannot read"):
        load_episodes(path, DATA)
    path.write_text("[]")
    with pytest.raises(InvalidDataset, match="not an episode list"):
        load_episodes(path, DATA)
    save_episodes(path, draw_test_episodes(DATA, (0,), 1, 7, seed=0), DATA)
    with pytest.raises(InvalidDataset, match="no usable image"):
        load_episodes(path, SyntheticDataset(per_class=3, size=48))
    path.write_text(path.read_text().replace("plain disc", "teapot"))
    with pytest.raises(InvalidDataset, match="no class 'teapot'"):
        load_episodes(path, DATA)
    with pytest.raises(OutputError, match="cannot write"):
        save_episodes(tmp_path / "missing" / "list.json", [], DATA)


def test_tensors_of_an_episode() -> None:
    episode = draw_test_episodes(DATA, (0,), 3, 1, seed=0)[0]
    tensors = episode_tensors(DATA, episode, 32)
    assert tensors.query.shape == (3, 32, 32)
    assert tensors.images.shape == (3, 3, 32, 32)
    assert tensors.query_mask.dtype == torch.int64
    assert tensors.masks.shape == (3, 32, 32)
    batch = collate([tensors, tensors])
    assert batch.images.shape == (2, 3, 3, 32, 32)
    rng = np.random.default_rng(0)
    varied = episode_views(DATA, episode, 32, augmentation=Augmentation(rotate=1.0), rng=rng)
    assert any((mask == IGNORE).any() for _, mask in varied)
    support = _training(augmentation=Augmentation(rotate=1.0))[0].masks
    assert set(support.unique().tolist()) == {0.0, 1.0}, "ignored pixels of a support are background"


def _training(**changes: object) -> TrainingEpisodes:
    sources = [TrainingSource(DATA, (0, 1)), TrainingSource(SyntheticDataset(9, per_class=5, size=48), (2,), 3.0)]
    options: dict[str, object] = {
        "shots": (1,),
        "per_epoch": 8,
        "epochs": 2,
        "size": 32,
        "seed": 1,
        "augmentation": Augmentation(),
    }
    return TrainingEpisodes(sources, **{**options, **changes})  # type: ignore[arg-type]


def test_training_items_depend_on_their_number_alone() -> None:
    episodes = _training()
    assert len(episodes) == 16
    in_order = [episodes[i] for i in range(16)]
    again = _training()
    for index in (15, 3, 8):
        assert torch.equal(again[index].query, in_order[index].query)
    loader = DataLoader(_training(), batch_size=4, num_workers=2, collate_fn=collate)
    for number, batch in enumerate(loader):
        assert torch.equal(batch.query, torch.stack([t.query for t in in_order[4 * number : 4 * number + 4]]))
    assert not torch.equal(in_order[0].query, in_order[8].query)


def test_sources_are_drawn_by_weight() -> None:
    drawn = [source for epoch in range(2) for source, _ in _training(per_epoch=200).epoch(epoch)]
    assert 0.15 < drawn.count(0) / len(drawn) < 0.35
    with pytest.raises(InvalidDataset, match="nothing to train on"):
        TrainingEpisodes([], shots=(1,), per_epoch=1, epochs=1, size=32, seed=0)


@pytest.mark.parametrize("augment", ["sccan", "strong"])
def test_queries_without_their_class_are_varied_as_others_are(augment: str) -> None:
    """Where only these stayed as they were, that alone would say that the class is absent."""
    views, name = VIEWS[augment], DATA.names(0)[0]
    assert views is not None
    image, whole = DATA.image(name), DATA.mask(name, 0)
    for seed in range(4):
        varied, _ = views.view(image, np.where(whole == 1, 0, whole), 48, np.random.default_rng(seed))
        usual, _ = views.view(image, np.full_like(whole, 1), 48, np.random.default_rng(seed))
        torch.testing.assert_close(varied, usual)
