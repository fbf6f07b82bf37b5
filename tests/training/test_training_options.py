"""Recipes, maps kept in files, images that are encoded once, early stopping, validation on the test classes."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image

from fewseg.cli import main
from fewseg.core.distributed import Processes
from fewseg.core.errors import InvalidDataset, InvalidOption
from fewseg.core.types import IGNORE, Episode, EpisodeTensors
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.sources import OpenSource, open_source
from fewseg.data.episodes.tensors import TrainingEpisodes, TrainingSource
from fewseg.data.episodes.views import VIEWS
from fewseg.models.checkpoints.native import load_method
from fewseg.training.batches import encode, gather
from fewseg.training.config import TrainConfig
from fewseg.training.config_file import as_yaml
from fewseg.training.data import divide, training_batches
from fewseg.training.feature_cache import FeatureCache, cached_batches
from fewseg.training.recipes import PASCAL_LISTS, RECIPES, find_recipe
from fewseg.training.train import fit
from helpers.toy_method import toy
from helpers.training_runs import CONFIG, losses, run, small_data

pytestmark = pytest.mark.usefixtures("toy_known", "one_thread")

DATA = SyntheticDataset(per_class=4, size=48)
SOURCE = TrainingSource(DATA, (1, 2, 3))


def _cache(folder: Path | None, seen: list[int], source: TrainingSource = SOURCE, **changes: Any) -> FeatureCache:
    """Two views of every image; `seen` gets the number of images of every call of the backbone."""
    model = toy(seed=changes.pop("weights", 0))
    model.backbone.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    how: dict[str, Any] = {"size": 32, "count": 2, "views": VIEWS["strong"], "seed": 0, "folder": folder}
    return FeatureCache(model.backbone, [source], **{**how, **changes})


def test_maps_in_files_are_those_in_memory_and_serve_later_runs(tmp_path: Path) -> None:
    seen: list[int] = []
    caches = [_cache(None, seen), _cache(tmp_path, seen)]
    images = {name for c in SOURCE.classes for name in DATA.names(c)}
    views = len(images) + sum(len(DATA.names(c)) for c in SOURCE.classes)
    assert sum(seen) == 2 * views
    episodes = TrainingEpisodes([SOURCE], shots=(2,), batch=4, per_epoch=8, epochs=1, size=32, seed=0)
    for memory, files in zip(
        *(cached_batches(episodes, cache, [range(4), range(4, 8)]) for cache in caches), strict=True
    ):
        assert all(
            torch.equal(a, b) for a, b in zip(memory.query + memory.support, files.query + files.support, strict=True)
        )
        assert torch.equal(memory.masks, files.masks)
        assert torch.equal(memory.query_mask, files.query_mask)
    fewer = TrainingSource(DATA, (2, 3))
    seen.clear()
    _cache(tmp_path, seen)
    _cache(tmp_path, seen, fewer)  # numbers of the sources and of the images stay: so do the views
    assert seen == []
    half = _cache(tmp_path, seen, amp=True)
    assert sum(seen) == views
    assert half.episode(0, episodes.episode(0)[1], np.random.default_rng(0))[0][0][0].dtype == torch.bfloat16


def test_stale_and_broken_files_are_made_anew(tmp_path: Path) -> None:
    class Repainted(SyntheticDataset):
        """One image is another than it was."""

        def image(self, name: str) -> Image.Image:
            image = super().image(name)
            return image.rotate(90) if name == DATA.names(1)[0] else image

    seen: list[int] = []
    _cache(tmp_path, seen, count=1)
    everything = sum(seen)
    seen.clear()
    _cache(tmp_path, seen, TrainingSource(Repainted(per_class=4, size=48), SOURCE.classes), count=1)
    assert seen == [1]
    first, second, *others = sorted(tmp_path.rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-7])
    second.unlink()
    (first.parent / f"{first.name}.123.tmp").write_bytes(b"of a run that was killed")
    seen.clear()
    cache = _cache(tmp_path, seen, count=1)
    assert sum(seen) in (1, 2)  # one of them may be the old image's
    for change in ({"weights": 1}, {"size": 48}):
        seen.clear()
        _cache(tmp_path, seen, count=1, **change)
        assert sum(seen) == everything, change
    for path in (first, second, *others):
        path.unlink(missing_ok=True)
    with pytest.raises(InvalidOption, match=r"cannot read cached maps .* run again"):
        cache.episode(
            0,
            TrainingEpisodes([SOURCE], shots=(1,), per_epoch=1, epochs=1, size=32, seed=0).episode(0)[1],
            np.random.default_rng(0),
        )


def test_processes_divide_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Processes, "barrier", lambda self: None)  # the other one's turn comes after
    seen: tuple[list[int], list[int], list[int]] = ([], [], [])
    for rank in (1, 0):
        _cache(tmp_path, seen[rank], count=1, processes=Processes(rank, 2))
    assert abs(sum(seen[0]) - sum(seen[1])) <= 1
    _cache(tmp_path, seen[2], count=1)
    assert seen[2] == []


def test_queries_without_their_class_are_seen_in_varied_views_too() -> None:
    cache = _cache(None, [], count=3)
    absent = next(name for name in DATA.names(2) if name not in DATA.names(1))
    episode = Episode(absent, (DATA.names(1)[0],), 1)
    drawn = [cache.episode(0, episode, np.random.default_rng(seed))[0] for seed in range(12)]
    assert len({float(maps[0].sum()) for maps, _ in drawn}) == 3
    assert not any((mask == 1).any() for _, mask in drawn)
    assert any((mask == IGNORE).any() for _, mask in drawn)


def test_too_little_of_the_class_to_train_on_is_not_taught_as_nothing() -> None:
    class Hidden(SyntheticDataset):
        """Images of class 1 show class 2 too, in the same place, but are not among its images."""

        def mask(self, name: str, class_id: int) -> NDArray[np.uint8]:
            return super().mask(name, 1 if name in self.names(1) else class_id)

    data = Hidden(per_class=4, size=48)
    cache = _cache(None, [], TrainingSource(data, (1, 2)), count=3)
    shown = next(name for name in data.names(1) if name not in data.names(2))
    episode = Episode(shown, (data.names(2)[0],), 2)
    for seed in range(8):
        (_, mask), *_ = cache.episode(0, episode, np.random.default_rng(seed))
        assert (mask == 1).any()


def test_a_run_uses_the_maps_of_the_one_before(tmp_path: Path) -> None:
    config = replace(CONFIG, augment="none", epochs=1, cached_views=1, validation_classes=(0,))
    run(tmp_path / "memory", config)
    folder = str(tmp_path / "maps")
    run(tmp_path / "first", replace(config, cache_folder=folder))
    method = toy()
    seen: list[int] = []
    method.backbone.register_forward_hook(lambda *_: seen.append(1))
    fit(method, small_data(config), replace(config, cache_folder=folder), tmp_path / "second")
    assert seen == []
    assert losses(tmp_path / "memory") == losses(tmp_path / "first") == losses(tmp_path / "second")
    trained = load_method(tmp_path / "second" / "last.safetensors").extra["trained"]
    assert "cache_folder" not in trained["config"]


def test_a_batch_holds_every_image_once() -> None:
    config = replace(CONFIG, augment="none", shots=(3,), batch_size=8, epochs=1)
    source = TrainingSource(SyntheticDataset(per_class=4, size=48), (1,))
    (batch,) = training_batches([source], config, 32, start=0, pin=False)
    assert len(batch.images) == 4
    method = toy()
    episodes = TrainingEpisodes([source], shots=(3,), batch=8, per_epoch=8, epochs=1, size=32, seed=0)
    apart = [episodes[number] for number in range(8)]
    found = method.segment(*encode(method, batch))
    for row, episode in enumerate(apart):
        expected = method(episode.query[None], episode.images[None], episode.masks[None])
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(batch.masks[row], episode.masks)
    varied = next(training_batches([source], replace(config, augment="strong"), 32, start=0, pin=False))
    assert len(varied.images) == 8 * 4


def test_gathered_images_lie_in_order() -> None:
    def episode(value: float) -> EpisodeTensors:
        fill = torch.full((3, 2, 2), value)
        return EpisodeTensors(fill, torch.zeros(2, 2).long(), torch.stack([fill + 1, fill + 2]), torch.zeros(2, 2, 2))

    batch = gather([episode(0), episode(1)], [("a", "b", "c"), ("b", "c", "d")])
    assert batch.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]  # both queries, then what else there is
    assert (batch.query, batch.support) == ((0, 1), (1, 2, 2, 3))


def test_stops_when_validation_no_longer_improves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([30.0, 40.0, 35.0, 40.0, 99.0])
    monkeypatch.setattr("fewseg.training.loop.validate", lambda *_, **__: ((s := next(scores)), s, {"a": s}))
    config = replace(CONFIG, epochs=9, episodes_per_epoch=4, patience=2)
    report = run(tmp_path, config)
    assert (report.steps, report.best_step, report.best_miou) == (8, 4, 40.0)
    assert "presence_threshold" in load_method(report.best).extra
    again = run(tmp_path, config)
    assert (again.steps, again.resumed_from) == (8, 8)
    assert run(tmp_path, replace(config, patience=3, epochs=5)).steps == 10


def test_validation_on_the_test_classes_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = replace(CONFIG, validate_on="novel", epochs=1, validation_classes=(0,))
    opened = replace(open_source("synthetic@0/4"), dataset=SyntheticDataset(per_class=6, size=48))
    with caplog.at_level(logging.WARNING):
        data = divide([opened], (1.0,), config)
    assert "validating on the 8 test classes" in caplog.text
    assert data.sources[0].classes == opened.base
    assert {e.class_id for e in data.validation[0].episodes} <= set(opened.novel)
    fit(toy(), data, config, tmp_path)
    assert load_method(tmp_path / "best.safetensors").extra["trained"]["validated_on"] == "the test classes"
    run(tmp_path / "base", replace(CONFIG, epochs=1))
    about = load_method(tmp_path / "base" / "best.safetensors").extra["trained"]
    assert about["validated_on"] == "base classes kept from training"
    with pytest.raises(InvalidDataset, match="no class to validate on has 5 usable images"):
        divide([OpenSource(DATA, (0, 1, 2), (3,))], (1.0,), config)
    everything = OpenSource(opened.dataset, (0, 1, 2), (0, 1, 2))
    with pytest.raises(InvalidDataset, match="no novel classes apart"):
        divide([everything], (1.0,), config)


def test_config_refuses_what_goes_without_the_other() -> None:
    for change, word in (
        ({"cache_folder": "maps"}, "give cached_views"),
        ({"patience": 3, "validation_episodes": 0}, "patience without validation"),
        ({"patience": 3, "validation_classes": (0,)}, "patience without validation"),
        ({"grad_accum_steps": 0}, "grad_accum_steps is 0"),
        ({"validate_on": "nvel"}, "did you mean 'novel'"),
    ):
        with pytest.raises(InvalidOption, match=word):
            replace(CONFIG, **change)  # type: ignore[arg-type]


def test_recipes_are_as_published() -> None:
    dcama = find_recipe("dcama-pascal5i-resnet50").published
    assert (dcama["batch_size"], dcama["lr"], dcama["momentum"], dcama["weight_decay"]) == (48, 1e-3, 0.9, 1e-4)
    assert (dcama["image_size"], dcama["loss"], dcama["optimiser"], dcama["schedule"]) == (384, "ce", "sgd", "constant")
    assert find_recipe("dcama-fss1000-swin_b").published["batch_size"] == 40
    assert find_recipe("dcama-coco20i-swin_b").published["epochs"] == 90
    assert find_recipe("dcama-coco20i-resnet50").ours["epochs"] == 90
    sccan = [find_recipe(f"sccan-{name}").published for name in ("pascal5i-resnet50", "coco20i-resnet101-5shot")]
    assert [(r["epochs"], r["augment"], r["shots"]) for r in sccan] == [(200, "sccan", (1,)), (50, "sccan-coco", (5,))]
    assert {(r["batch_size"], r["optimiser"], r["lr"], r["attention_lr"], r["loss"]) for r in sccan} == {
        (8, "sgd+adamw", 0.05, 6e-5, "dice")
    }
    hsnet = find_recipe("hsnet-pascal5i-resnet101")
    assert (hsnet.published["batch_size"], hsnet.published["optimiser"], hsnet.published["image_size"]) == (
        20,
        "adam",
        400,
    )
    assert find_recipe("hsnet-coco20i-resnet50").published["batch_size"] == 40
    for recipe in (dcama, hsnet.published):
        assert (recipe["ignored_pixels"], recipe["drop_last"]) == ("background", False)
    assert [dict(hsnet.fields(fold))["episodes_per_epoch"] for fold in range(4)] == [
        sum(PASCAL_LISTS) - n for n in PASCAL_LISTS
    ]
    assert len(RECIPES) == 26
    for recipe in RECIPES.values():
        assert not recipe.published.keys() & recipe.ours.keys()
        TrainConfig(data=(f"{recipe.benchmark}:ROOT",), **recipe.fields())


def _shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, TrainConfig]:
    assert main(["train", *arguments, "--show"]) == 0
    text = capsys.readouterr().out
    return text, TrainConfig.from_json(yaml.safe_load(text))


def test_show_prints_the_whole_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text, config = _shown(capsys, "--recipe", "dcama-pascal5i-resnet50", "--fold", "2")
    assert config.data == ("pascal5i:ROOT",)
    assert (config.batch_size, config.episodes_per_epoch, config.fold) == (48, sum(PASCAL_LISTS) - PASCAL_LISTS[2], 2)
    assert "epochs: 100  # ours" in text.splitlines()
    text, config = _shown(
        capsys,
        "--recipe=sccan-coco20i-resnet50",
        "--data",
        "coco20i:/data@1",
        "--batch-size=4",
        "--no-pretrained",
        "--amp",
        "--backbone-weights",
        "r50.pth",
    )
    assert (config.data, config.batch_size, config.amp, config.pretrained) == (("coco20i:/data@1",), 4, True, False)
    assert "batch_size: 4  # changed, the recipe: 8" in text.splitlines()
    text, config = _shown(capsys, "--data", "synthetic", "--random-backbone")
    assert config == TrainConfig(data=("synthetic",), random_backbone=True)
    assert as_yaml(config) == text


def test_unknown_recipes_and_folds_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--recipe", "dcama-pascal5i-resnet5"], "unknown recipe 'dcama-pascal5i-resnet5'; did you mean"),
        (["--recipe", "dcama-pascal5i-resnet50", "--data", "pascal5i:x@4"], "fold 4 of recipe"),
    ):
        assert main(["train", *arguments, "--show"]) == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert len(said.splitlines()) == 1
    assert main(["train", "--recipe", "dcama-pascal5i-resnet50"]) == 2
    assert "missing --data, --out" in capsys.readouterr().err


def test_a_recipe_trains_with_what_is_given_beside_it(tmp_path: Path) -> None:
    small = "--backbone tiny --no-pretrained --random-backbone --image-size 64 --batch-size 2"
    few = (
        "--episodes-per-epoch 3 --epochs 1 --no-tensorboard --validation-episodes 2 --workers 0 --device cpu --shots 1"
    )
    arguments = ["train", "--recipe", "dcama-pascal5i-resnet50", "--data", "synthetic@0/4", "--out", str(tmp_path)]
    assert main([*arguments, *small.split(), *few.split()]) == 0
    trained = load_method(tmp_path / "last.safetensors").extra["trained"]
    config = trained["config"]
    assert (config["batch_size"], config["lr"], config["optimiser"], config["queries"]) == (2, 1e-3, "sgd", "pairs")
    assert trained["step"] == 2  # three pairs in batches of two: the last is kept
    assert trained["validated_on"].endswith("by the method's test protocol")


def test_runs_of_earlier_versions_are_resumed() -> None:
    words = ["attention=cosine", "heads=1", "identity_start=True", "position_weight=0.0", "dropout=0.0", "balance=True"]
    words += ["decoder=light", "attention_scales=16,32", "skip_scales=4,8", "looks=3", "follow_edges=True"]
    old = {"data": ["synthetic"], "random_backbone": True, "method": "dcama", "options": words, "batch": 4}
    old |= {"episodes": 8, "absent": 0.2, "joined": 0.5, "accumulate": 2, "cache_views": 0, "clip": 1.0, "average": 0.9}
    now = TrainConfig(
        ("synthetic",),
        random_backbone=True,
        method="dcama_light",
        batch_size=4,
        episodes_per_epoch=8,
        negative_episodes=0.2,
        splice=0.5,
        clip_grad=1.0,
        ema_decay=0.9,
    )
    now.check_resumes(old, "OUT")  # the light decoder's options are the defaults of dcama_light
    assert TrainConfig.from_json(old).batch_size == 4
    assert TrainConfig.from_json(old).method == "dcama_light"
    with pytest.raises(InvalidOption, match=r"a run with splice 0.5, not 0.25"):
        replace(now, splice=0.25).check_resumes(old, "OUT")
    with pytest.raises(InvalidOption, match="a run with model_kwargs"):
        replace(now, model_kwargs=("refinement_steps=1",)).check_resumes(old, "OUT")
