"""Named models: what the registry says can be made, names of every kind open, and errors name the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from fewseg import Segmenter
from fewseg.cli import main
from fewseg.core.errors import InvalidCheckpoint, InvalidOption
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.models.backbones.names import NAMED_BACKBONES
from fewseg.models.checkpoints import ModelName, fingerprint, load_method, open_model, save_method
from fewseg.models.methods import METHODS, create_method
from fewseg.models.methods.base import check_image_size
from fewseg.models.zoo import ZOO
from helpers.golden_models import released_state

TIMM = "vit_tiny_patch16_224"
"""A backbone that is quick to make; its weights here are random."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of weights, and no network."""
    monkeypatch.setenv("FEWSEG_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.mark.parametrize("name", ZOO)
def test_the_registry_names_what_there_is(name: str) -> None:
    model = ZOO[name]
    assert model.name == name
    assert model.method in METHODS
    METHODS[model.method].Config(image_size=model.image_size, **model.config)
    check_image_size(model.image_size)
    assert model.licence
    assert model.about
    assert model.measured
    if model.embedded:
        assert model.here
        return
    base = NAMED_BACKBONES[model.backbone][0]
    patch = 14 if "patch14" in base else 16
    assert model.image_size % patch == 0  # nothing is resized twice
    assert model.weights is not None
    assert model.weights.url.endswith(f"{base}/resolve/main/model.safetensors")
    assert (model.licence == "Apache-2.0") == ("dinov2" in base)


def test_names_of_every_kind() -> None:
    assert ModelName.parse("default").is_checkpoint
    assert ModelName.parse("runs/a.safetensors").is_checkpoint
    assert ModelName.parse("user/name").is_checkpoint
    assert ModelName.parse("foris-small").zoo is ZOO["foris-small"]
    named = ModelName.parse("dcama:resnet50:a:b.pt")
    assert (named.method, named.backbone, named.file) == ("dcama", "resnet50", "a:b.pt")
    named = ModelName.parse("prototype:resnet18")
    assert (named.method, named.backbone, named.file) == ("prototype", "resnet18", None)
    assert ModelName.parse(r"C:\models\a.safetensors").is_checkpoint
    for wrong, said in (
        ("dcma:resnet50:a.pt", "did you mean 'dcama'"),
        ("dcama::a.pt", "give dcama:BACKBONE"),
        ("dcama:resnet50:", "give dcama:BACKBONE"),
    ):
        with pytest.raises(InvalidOption, match=said):
            ModelName.parse(wrong)


def test_a_name_that_is_nearly_right() -> None:
    with pytest.raises(InvalidCheckpoint, match="did you mean 'foris-small'"):
        open_model("foris-smal")


def test_a_method_over_weights_in_the_folder(folder: Path) -> None:
    torch.manual_seed(0)
    net = timm.create_model(TIMM, pretrained=False, num_classes=0)
    name = timm.get_pretrained_cfg(TIMM)
    save_file(net.state_dict(), folder / f"{TIMM}.{name.tag}.safetensors")
    segmenter = Segmenter.from_pretrained(f"prototype:{TIMM}", device="cpu", precision="float32")
    assert torch.equal(segmenter.method.backbone.net.state_dict()["pos_embed"], net.state_dict()["pos_embed"])
    dataset = SyntheticDataset(per_class=2, size=64)
    first, second = dataset.names(5)[:2]
    segmenter.teach("shape", dataset.image(first), dataset.mask(first, 5) == 1)
    segmenter.save(folder / "taught.fewseg")
    again = Segmenter.load(folder / "taught.fewseg", device="cpu", precision="float32")
    assert again.source == {"name": f"prototype:{TIMM}"}
    found = [s.segment(dataset.image(second)).probabilities["shape"] for s in (segmenter, again)]
    np.testing.assert_allclose(*found, atol=1e-6)


def test_a_zoo_model_has_its_size(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small: dict[str, Any] = {"embed_dim": 24, "depth": 2, "num_heads": 3}
    name = NAMED_BACKBONES["dinov2-small"][0]
    monkeypatch.setitem(NAMED_BACKBONES, "dinov2-small", (name, small))
    net = timm.create_model(name, pretrained=False, **small)
    save_file(net.state_dict(), folder / f"{name}.safetensors")
    assert ZOO["prototype-dinov2-small"].here
    method = open_model("prototype-dinov2-small")
    assert (method.name, method.backbone.name, method.config.image_size) == ("prototype", "dinov2-small", 448)
    assert open_model("prototype-dinov2-small", image_size=224).config.image_size == 224


def test_without_a_network(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ZOO["prototype-dinov3-small"].weights
    assert weights is not None
    with pytest.raises(InvalidCheckpoint) as raised:
        Segmenter.from_pretrained("prototype-dinov3-small")
    said = str(raised.value)
    assert f"fetch {weights.url} and put it at {folder / weights.name}.safetensors" in said
    assert "\n" not in said
    assert main(["models", "prototype-dinov3-small", "--download"]) == 2
    error = capsys.readouterr().err
    assert f"put it at {folder / weights.name}.safetensors" in error


def test_what_has_to_be_trained_is_not_downloaded_for(folder: Path) -> None:
    with pytest.raises(InvalidOption, match=f"hsnet has to be trained: .*hsnet:{TIMM}:FILE"):
        open_model(f"hsnet:{TIMM}")


def test_releases_and_checkpoints(tmp_path: Path) -> None:
    torch.save(released_state("keys_hsnet_resnet50.tsv", 0), tmp_path / "hsnet.pt")
    segmenter = Segmenter.from_pretrained(f"hsnet:resnet50:{tmp_path / 'hsnet.pt'}", device="cpu")
    same = Segmenter.from_official(tmp_path / "hsnet.pt", "resnet50", "hsnet", device="cpu")
    assert segmenter.model_fingerprint == same.model_fingerprint
    assert segmenter.source == {"name": str(tmp_path / "hsnet.pt"), "official": "resnet50", "method": "hsnet"}
    save_method(create_method("prototype", backbone="tiny", image_size=64), tmp_path / "own.safetensors")
    own = open_model(tmp_path / "own.safetensors")
    assert fingerprint(own) == fingerprint(load_method(tmp_path / "own.safetensors"))
    with pytest.raises(InvalidOption, match="leave out temperature"):
        open_model(tmp_path / "own.safetensors", temperature=3.0)


def test_models_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "method", "backbone", "size", "here", "licence", "of", "the", "weights"]
    assert [line.split()[0] for line in lines[1 : len(ZOO) + 1]] == list(ZOO)
    assert lines[1].split()[-2:] == ["yes", "Apache-2.0"]
    assert main(["models", "insid3-large"]) == 0
    said = capsys.readouterr().out
    assert "57.6" in said
    assert str(folder) in said
    assert main(["models", "insid3-larg"]) == 2
    assert "did you mean 'insid3-large'" in capsys.readouterr().err
