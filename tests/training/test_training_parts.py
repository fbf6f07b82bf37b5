"""Parts of training: feature cache, mixed shots, negative episodes, EMA, two optimisers, presence, views."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import optim

from fewseg.core.errors import InvalidOption
from fewseg.core.types import IGNORE
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.draw import draw_training_episodes
from fewseg.data.episodes.scaled_crops import ScaledCrops
from fewseg.data.episodes.tensors import TrainingEpisodes, TrainingSource
from fewseg.data.episodes.views import VIEWS
from fewseg.models.checkpoints.native import load_method
from fewseg.models.presence import RECALL
from fewseg.training.ema import WeightEMA
from fewseg.training.feature_cache import FeatureCache, cached_batches
from fewseg.training.log import read_metrics
from fewseg.training.optim import make_optimiser
from helpers.toy_method import Toy, toy
from helpers.training_runs import CONFIG, losses, run

pytestmark = pytest.mark.usefixtures("toy_known", "one_thread")

DATA = SyntheticDataset(per_class=4, size=48)
SOURCE = TrainingSource(DATA, (1, 2, 3))


def test_kept_maps_give_the_same_losses(tmp_path: Path) -> None:
    plain = replace(CONFIG, augment="none", shots=(1, 3))
    run(tmp_path / "anew", plain)
    run(tmp_path / "kept", replace(plain, cached_views=1))
    assert losses(tmp_path / "kept") == pytest.approx(losses(tmp_path / "anew"), abs=1e-5)


def test_runs_with_kept_views_and_averages_resume(tmp_path: Path) -> None:
    config = replace(CONFIG, cached_views=3, ema_decay=0.9, negative_episodes=0.3, shots=(1, 2))
    run(tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", config, stop_at=7)
    assert run(tmp_path / "parts", config).resumed_from == 6
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    one, two = (load_method(tmp_path / name / "best.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    assert one.extra == two.extra


def test_backbone_sees_every_view_once() -> None:
    model, seen = toy(), []
    model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    cache = FeatureCache(model.backbone, [SOURCE], size=32, count=3, views=VIEWS["strong"], seed=0)
    images = {name for c in SOURCE.classes for name in DATA.names(c)}
    assert sum(seen) == len(images) + 2 * sum(len(DATA.names(c)) for c in SOURCE.classes)
    episodes = TrainingEpisodes([SOURCE], shots=(2,), batch=4, per_epoch=8, epochs=2, size=32, seed=0)
    batches = list(cached_batches(episodes, cache, [range(i, i + 4) for i in (4, 8, 12)]))
    assert len(batches) == 3
    assert batches[0].masks.shape == (4, 2, 32, 32)
    assert {len(m) for m in batches[0].query} == {4}
    assert {len(m) for m in batches[0].support} == {8}
    assert sum(seen) == len(images) + 2 * sum(len(DATA.names(c)) for c in SOURCE.classes)


def test_absent_queries() -> None:
    drawn = draw_training_episodes(DATA, (1, 2, 3), 2, 400, 0, 0, negative_episodes=0.5)
    away = [e for e in drawn if e.query not in DATA.names(e.class_id)]
    assert 150 < len(away) < 250
    assert all(name in DATA.names(e.class_id) for e in drawn for name in e.support)
    assert draw_training_episodes(DATA, (1,), 1, 5, 0, 0, negative_episodes=0.9) != []  # nothing else to show: as if 0


def test_several_numbers_of_shots() -> None:
    mixed = TrainingEpisodes([SOURCE], shots=(1, 3), batch=4, per_epoch=40, epochs=1, size=32, seed=0)
    most = TrainingEpisodes([SOURCE], shots=(3,), batch=4, per_epoch=40, epochs=1, size=32, seed=0)
    counts = [len(e.support) for _, e in mixed.epoch(0)]
    assert all(len(set(counts[i : i + 4])) == 1 for i in range(0, 40, 4))
    assert set(counts) == {1, 3}
    for (_, few), (_, all_) in zip(mixed.epoch(0), most.epoch(0), strict=True):
        assert few.support == all_.support[: len(few.support)]


def test_average_follows_the_weights() -> None:
    model = toy()
    average = WeightEMA(model, 0.5)
    start = model.out.bias.detach().clone()
    with torch.no_grad():
        model.out.bias += 1
    average.update(1)  # decay 2 / 11: the start is forgotten quickly
    torch.testing.assert_close(average.method.out.bias, start + 9 / 11)
    average.update(1000)
    torch.testing.assert_close(average.method.out.bias, start + 1 - 1 / 11)


def test_buffers_are_taken_over_as_they_are() -> None:
    model = toy()
    model.register_buffer("seen", torch.tensor(0.0))
    average = WeightEMA(model, 0.9)
    model.get_buffer("seen").fill_(5)
    average.update(3)
    assert average.method.get_buffer("seen").item() == 5


def test_attention_has_an_optimiser_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(CONFIG, optimiser="sgd+adamw", lr=0.005, attention_lr=6e-5)
    with pytest.raises(InvalidOption, match="no attention blocks"):
        make_optimiser(toy(), config)
    monkeypatch.setattr(Toy, "adamw_parameters", ("mix.",))
    model = toy()
    both = make_optimiser(model, config)
    assert [type(part) for part in both.parts] == [optim.SGD, optim.AdamW]
    both.set_learning_rate(0.001)
    assert [part.param_groups[0]["lr"] for part in both.parts] == [0.001, 6e-5]
    assert {id(p) for p in both.parts[1].param_groups[0]["params"]} == {id(p) for p in model.mix.parameters()}


def test_training_ends_with_a_presence_threshold(tmp_path: Path) -> None:
    run(tmp_path)
    extra = load_method(tmp_path / "best.safetensors").extra
    assert 0 < extra["presence_threshold"] <= 0.5
    assert extra["presence_recall"] >= RECALL
    assert all(0 <= extra[f"presence_{name}"] <= 1 for name in ("balanced_accuracy", "roc_area", "false_alarms"))
    assert extra["trained"]["step"] in {line["step"] for line in read_metrics(tmp_path) if "val_miou" in line}


@pytest.mark.parametrize("shape", [(40, 60), (90, 70)])
def test_scaled_crops_keep_the_scale(shape: tuple[int, int]) -> None:
    height, width = shape
    picture = Image.new("RGB", (width, height), (200, 30, 30))
    mask = np.zeros(shape, np.uint8)
    mask[height // 4 : -height // 4, width // 4 : -width // 4] = 1
    area = int((mask == 1).sum())
    for seed in range(8):
        image, labels = ScaledCrops(rotation=0).view(picture, mask, 64, np.random.default_rng(seed))
        assert image.shape == (3, 64, 64)
        outside = labels == IGNORE
        assert torch.all(image[:, outside].abs() < 0.3) or not outside.any()  # the mean colour
        if height < 64:
            side = math.sqrt(int((labels == 1).sum()) / area)
            assert 0.85 < side < 1.15


def test_config_refuses_what_cannot_work() -> None:
    for change, word in (
        ({"shots": ()}, "shots"),
        ({"negative_episodes": 1.0}, "negative_episodes"),
        ({"validation_classes": (1, 2)}, "validation_classes"),
        ({"augment": "none", "cached_views": 1, "train_backbone": True}, "cached_views"),
        ({"augment": "strong", "cached_views": 1}, "2 or more"),
        ({"augment": "none", "cached_views": 4}, "all alike"),
        ({"seed": -1}, "seed is -1"),
        ({"weights": (float("nan"),)}, "weights"),
        ({"data": (), "validation_classes": ()}, "no data"),
        ({"augment": "strnog"}, "strong"),
    ):
        with pytest.raises(InvalidOption, match=word):
            replace(CONFIG, **change)  # type: ignore[arg-type]
