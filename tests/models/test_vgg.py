"""VGG-16 as HSNet's paper uses it, against torchvision's, and its released file by construction."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vgg16

from fewseg.core.errors import InvalidCheckpoint, InvalidOption
from fewseg.models.backbones import create_backbone
from fewseg.models.checkpoints import load_official
from fewseg.models.checkpoints.native import load_method, save_method
from helpers.golden_models import fill, inputs, released_state


def torchvision_layers() -> nn.Sequential:
    """torchvision's `features`, filled; ReLUs that leave their input as it is."""
    with torch.device("meta"):
        layers = vgg16().features
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    layers.to_empty(device="cpu")
    state = {n: torch.from_numpy(fill.parameter(3, n, tuple(p.shape))) for n, p in layers.state_dict().items()}
    layers.load_state_dict(state)
    return layers


def vgg_release() -> dict[str, Tensor]:
    """Names and shapes of HSNet's release over VGG-16: torchvision's backbone, and 1, 3 and 3 maps a scale."""
    with torch.device("meta"):
        backbone = vgg16().state_dict()
    state = {f"module.backbone.{n}": torch.zeros(t.shape if "features" in n else (1,)) for n, t in backbone.items()}
    for name, value in released_state("keys_hsnet_resnet50.tsv", 1).items():
        if name.startswith("module.hpn_learner."):
            stage = re.search(r"encoder_layer([234])\.0\.conv.\.weight", name)
            state[name] = value[:, : {"4": 1, "3": 3, "2": 3}[stage[1]]] if stage else value
    return state


@torch.no_grad()
def test_maps_are_torchvisions(tmp_path) -> None:
    layers = torchvision_layers()
    torch.save({f"features.{n}": p for n, p in layers.state_dict().items()}, tmp_path / "vgg16.pth")
    pyramid = create_backbone("vgg16_convolutions", weights=tmp_path / "vgg16.pth")
    assert [(b.channels, b.scale) for b in pyramid.blocks] == [(512, 8)] * 3 + [(512, 16)] * 3 + [(512, 32)]
    x, expected = torch.randn(2, 3, 80, 64), []
    maps = pyramid(x)
    for number, layer in enumerate(layers):
        x = layer(x)
        if number in (17, 19, 21, 24, 26, 28, 30):  # conv4_1 to conv4_3, conv5_1 to conv5_3, the last max-pooling
            expected.append(x)
    assert len(maps) == len(expected)
    for mine, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_release_is_read_strictly(tmp_path) -> None:
    state = vgg_release()
    model = load_official(state, "hsnet", "vgg16")
    own = model.state_dict()
    assert [own[f"squeeze.{scale}.0.query.weight"].shape[1] for scale in (32, 16, 8)] == [1, 3, 3]
    for ours, theirs in (
        ("backbone.net.features.28.bias", "backbone.features.28.bias"),
        ("squeeze.32.0.support.weight", "hpn_learner.encoder_layer4.0.conv2.weight"),
    ):
        assert torch.equal(own[ours], state[f"module.{theirs}"])
    with torch.inference_mode():
        logits = model(*inputs(1, 64, 1))
    save_method(model, tmp_path / "own.safetensors")
    with torch.inference_mode():
        assert torch.equal(load_method(tmp_path / "own.safetensors")(*inputs(1, 64, 1)), logits)
    missing = state.pop("module.backbone.features.0.weight")
    with pytest.raises(InvalidCheckpoint, match=r"vgg16.*lacks backbone\.net\.features\.0\.weight"):
        load_official(state, "hsnet", "vgg16")
    state |= {"module.backbone.features.0.weight": missing, "module.backbone.features.1.weight": missing}
    with pytest.raises(InvalidCheckpoint, match=r"unknown backbone\.net\.features\.1\.weight"):
        load_official(state, "hsnet", "vgg16")


def test_it_takes_no_options() -> None:
    with pytest.raises(InvalidOption, match="takes no options"):
        create_backbone("vgg16_convolutions", options={"output_stride": 8})
