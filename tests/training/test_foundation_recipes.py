"""Recipes over foundation models: valid settings, whole patches, and a run that computes every image's maps once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fewseg.cli import main
from fewseg.models.backbones.names import NAMED_BACKBONES
from fewseg.models.backbones.timm_pyramid import TransformerPyramid
from fewseg.models.checkpoints import load_method
from fewseg.training.config import TrainConfig
from fewseg.training.log import read_metrics
from fewseg.training.recipes import FOUNDATION_RECIPES, RECIPES, find_recipe


@pytest.mark.parametrize("name", FOUNDATION_RECIPES)
def test_settings_are_valid(name: str) -> None:
    recipe = find_recipe(name)
    config = TrainConfig(data=("ROOT",), **recipe.fields(3))
    assert name == f"{config.method}/{config.backbone}"
    assert config.backbone in NAMED_BACKBONES
    assert config.image_size % 14 == config.image_size % 16 == 0
    assert name not in RECIPES


def test_settings_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--recipe", "dcama/dinov2-small", "--show"]) == 0
    shown = capsys.readouterr().out
    assert "backbone: dinov2-small" in shown
    assert "cached_views: 1" in shown


@pytest.mark.parametrize("method", ["dcama", "prototype"])
def test_trains_over_cached_maps(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, small = NAMED_BACKBONES["dinov2-small"][0], {"embed_dim": 24, "depth": 2, "num_heads": 3}
    monkeypatch.setitem(NAMED_BACKBONES, "dinov2-small", (name, small))
    monkeypatch.setenv("FEWSEG_WEIGHTS", str(tmp_path))
    torch.manual_seed(0)
    net = timm.create_model(name, pretrained=False, **small)
    save_file(net.state_dict(), tmp_path / f"{name}.safetensors")
    seen = []
    features = TransformerPyramid.features
    monkeypatch.setattr(
        TransformerPyramid, "features", lambda self, images: seen.append(len(images)) or features(self, images)
    )
    words = ["--data", "synthetic@0/4", "--out", str(tmp_path / "run"), "--image-size", "56", "--device", "cpu"]
    words += ["--epochs", "2", "--episodes-per-epoch", "4", "--batch-size", "2", "--workers", "0"]
    words += ["--validation-episodes", "0", "--no-tensorboard"]
    assert main(["train", "--recipe", f"{method}/dinov2-small", *words]) == 0
    lines = [line for line in read_metrics(tmp_path / "run") if "loss" in line]
    assert lines
    assert all(np.isfinite(line["loss"]) for line in lines)
    computed = list(seen)
    trained = load_method(tmp_path / "run" / "last.safetensors")
    assert torch.equal(trained.backbone.net.state_dict()["pos_embed"], net.state_dict()["pos_embed"])
    # Three images to measure the pyramid with, then the cache's batches of 16; no step of 2 episodes ran the backbone.
    assert computed[:3] == [1, 1, 1]
    assert set(computed[3:]) == {16}
