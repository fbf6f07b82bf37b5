"""Training images joined from halves of two."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fewseg.core.errors import InvalidOption
from fewseg.core.types import IGNORE, Episode
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.splice import splice_views
from fewseg.data.episodes.tensors import TrainingEpisodes, TrainingSource, collate
from fewseg.training.feature_cache import FeatureCache, cached_batches
from helpers.toy_method import toy
from helpers.training_runs import CONFIG, losses, run

DATA = SyntheticDataset(per_class=4, size=48)
SOURCE = TrainingSource(DATA, (1, 2, 3))


@pytest.mark.parametrize("seed", range(8))
def test_half_of_each_in_every_map_and_in_the_mask(seed: int) -> None:
    def view(value: float, mask: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
        return tuple(torch.full((2, side, side), value) for side in (16, 8, 5)), mask

    rows = torch.zeros(16, 16, dtype=torch.uint8)
    rows[9:12, 1:7] = 1  # below the middle, left of it: whichever the direction, one half has all of it
    rows[0, 0] = IGNORE
    other = torch.full((16, 16), 2, dtype=torch.uint8)
    (maps, mask), *_ = splice_views([view(1.0, rows)], [view(3.0, other)], np.random.default_rng(seed))
    assert mask.shape == (16, 16)
    assert (mask == 1).sum() == 18, "the half with the object is kept"
    assert (mask == 2).sum() == 128
    for joined in maps[:2]:
        side = joined.shape[-1]
        theirs = torch.nn.functional.interpolate((mask == 2).float()[None, None], (side, side))[0, 0]
        torch.testing.assert_close(joined, (1 + 2 * theirs).expand(2, -1, -1))
    assert sorted((maps[2] == v).sum().item() for v in (1.0, 3.0)) == [20, 30], "odd sides: two rows of five are theirs"


def _episodes(**changes: object) -> TrainingEpisodes:
    options: dict[str, object] = {"shots": (1, 2), "batch": 4, "per_epoch": 40, "epochs": 2, "size": 32, "seed": 0}
    return TrainingEpisodes([SOURCE], **{**options, **changes})  # type: ignore[arg-type]


def test_partners_show_another_class_and_are_masked_for_this_one() -> None:
    episodes = _episodes(splice=0.5)
    pairs = [(episodes.episode(i)[1], episodes.partner(i)) for i in range(80)]
    joined = [(episode, partner) for episode, partner in pairs if partner is not None]
    assert 25 < len(joined) < 55
    for episode, partner in joined:
        assert partner.class_id == episode.class_id
        assert len(partner.support) == len(episode.support)
        shown = [c for c in SOURCE.classes if partner.query in DATA.names(c)]
        assert set(shown) - {episode.class_id}
    alone = TrainingEpisodes([TrainingSource(DATA, (2,))], shots=(1,), per_epoch=4, epochs=1, size=32, seed=0, splice=1)
    assert [alone.partner(i) for i in range(4)] == [None] * 4


def test_joined_items_depend_on_their_number_alone() -> None:
    episodes = _episodes(splice=1.0, shots=(2,))
    in_order = [episodes[i] for i in range(8)]
    loader = DataLoader(_episodes(splice=1.0, shots=(2,)), batch_size=4, num_workers=2, collate_fn=collate)
    for number, batch in zip(range(2), loader, strict=False):
        assert torch.equal(batch.query, torch.stack([t.query for t in in_order[4 * number : 4 * number + 4]]))
    plain = _episodes(shots=(2,))
    for index, tensors in enumerate(in_order):
        # Half of the plain image is there, on either side.
        before = plain[index].query
        halves = [before[:, :16], before[:, 16:], before[:, :, :16], before[:, :, 16:]]
        places = [tensors.query[:, :16], tensors.query[:, 16:], tensors.query[:, :, :16], tensors.query[:, :, 16:]]
        assert any(torch.equal(h, p) for h in halves for p in places if h.shape == p.shape)
        assert not torch.equal(before, tensors.query)
        assert (tensors.masks == 1).flatten(1).any(1).all()


def test_nothing_changes_where_none_are_joined() -> None:
    assert torch.equal(_episodes(splice=0.0)[3].query, _episodes()[3].query)


@pytest.mark.usefixtures("toy_known", "one_thread")
def test_runs_with_joined_maps_and_images_resume(tmp_path: Path) -> None:
    for name, config in (
        ("maps", replace(CONFIG, cached_views=3, splice=0.6, negative_episodes=0.3, shots=(1, 2))),
        ("pictures", replace(CONFIG, splice=0.6)),
    ):
        run(tmp_path / name, config)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / f"{name}-parts", config, stop_at=7)
        assert run(tmp_path / f"{name}-parts", config).resumed_from == 6
        assert losses(tmp_path / f"{name}-parts") == losses(tmp_path / name)
        run(tmp_path / f"{name}-plain", replace(config, splice=0.0))
        assert losses(tmp_path / f"{name}-plain") != losses(tmp_path / name)


def test_masks_without_the_class_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(toy().backbone, [SOURCE], size=32, count=1, views=None, seed=0)
    batches = list(cached_batches(_episodes(splice=1.0, shots=(1,)), cache, [range(i, i + 4) for i in range(0, 40, 4)]))
    assert all((batch.masks == 1).flatten(1).any(1).all() for batch in batches)
    read: list[str] = []
    original = DATA.mask

    def mask(name: str, class_id: int) -> torch.Tensor:
        read.append(name)
        return original(name, class_id)

    monkeypatch.setattr(DATA, "mask", mask)
    class_id = SOURCE.classes[0]
    shown = DATA.names(class_id)[0]
    absent = next(n for c in SOURCE.classes for n in DATA.names(c) if n not in DATA.names(class_id))
    for _ in range(2):
        cache.episode(0, Episode(absent, (shown,), class_id), np.random.default_rng(0))
    assert read.count(absent) == 2
    assert read.count(shown) <= 1


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_shares_that_mean_nothing(share: float) -> None:
    with pytest.raises(InvalidOption, match="splice is"):
        replace(CONFIG, splice=share)
