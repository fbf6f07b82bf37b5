"""DINOv2, DINOv3, SAM and SAM 2 as pyramids: their tokens as timm gives them, any size, chosen layers, every method."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from fewseg.core.errors import InvalidCheckpoint, InvalidOption
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.images.transforms import IMAGENET_MEAN
from fewseg.inference.segmenter import Segmenter
from fewseg.models.backbones import BackboneSpec, MapChoice, build_pyramid, create_backbone
from fewseg.models.backbones.names import FOUNDATION_BACKBONES
from fewseg.models.backbones.published import published_weights
from fewseg.models.backbones.timm_pyramid import pretrained_config
from fewseg.models.checkpoints import load_method, save_method
from fewseg.models.methods import METHODS, FewShotMethod, create_method
from fewseg.models.methods.contract import check_method, episode
from helpers.foundation import SMALL_FOUNDATION

VITS = ["dinov2", "dinov2, registers", "dinov3"]
PATCH = {"dinov2": 14, "dinov2, registers": 14, "dinov3": 16, "sam": 16}


def small(family: str, **more: Any) -> Any:
    torch.manual_seed(0)
    name, options = SMALL_FOUNDATION[family]
    return create_backbone(name, options=options, **more)


@pytest.mark.parametrize("name", FOUNDATION_BACKBONES)
def test_names_are_timm_models_with_weights(name: str) -> None:
    weights = published_weights(FOUNDATION_BACKBONES[name])
    assert weights.name == FOUNDATION_BACKBONES[name]
    assert weights.url == f"https://huggingface.co/timm/{weights.name}/resolve/main/model.safetensors"
    assert ("DINOv3" in weights.licence) == name.startswith("dinov3")
    assert pretrained_config(weights.name).mean == IMAGENET_MEAN  # what the pyramid's images are scaled by


@pytest.mark.parametrize("family", VITS)
@pytest.mark.parametrize("final_norm", [False, True])
@torch.inference_mode()
def test_patch_tokens_of_the_last_block(family: str, final_norm: bool) -> None:
    """Against timm's own forward pass: class and register tokens dropped, rows of the map in order."""
    pyramid = small(family, maps=MapChoice(layers=(-1,), final_norm=final_norm))
    with torch.no_grad():
        pyramid.net.norm.weight.uniform_(0.5, 2)
    patch, (height, width) = PATCH[family], (4, 3)
    images = torch.randn(2, 3, height * patch, width * patch)
    net = copy.deepcopy(pyramid.net)
    if not final_norm:
        net.norm = nn.Identity()
    tokens = net.forward_features(images)[:, net.num_prefix_tokens :]
    assert net.num_prefix_tokens == {"dinov2": 1, "dinov2, registers": 5, "dinov3": 5}[family]
    expected = tokens.transpose(1, 2).unflatten(2, (height, width))
    (found,) = pyramid(images)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_sam_with_its_neck() -> None:
    pyramid = small("sam", maps=MapChoice(layers=(-1,), final_norm=True))
    images = torch.randn(1, 3, 96, 64)
    (found,) = pyramid(images)
    torch.testing.assert_close(found, pyramid.net.forward_features(images), atol=1e-5, rtol=1e-5)
    assert found.shape == (1, 256, 6, 4)


@pytest.mark.parametrize("family", SMALL_FOUNDATION)
@torch.inference_mode()
def test_any_size(family: str) -> None:
    """Sides are brought to whole patches; strides are what `blocks` says."""
    pyramid = small(family)
    assert pyramid.fixed_size is None
    for size in ((64, 64), (100, 75), (33, 90)):
        maps = pyramid(torch.randn(1, 3, *size))
        assert len(maps) == len(pyramid.blocks)
        for found, block in zip(maps, pyramid.blocks, strict=True):
            assert found.shape[1] == block.channels
            for side, own in zip(size, found.shape[2:], strict=True):
                assert abs(own - side / block.stride) <= 1 + pyramid.multiple / 2 / block.stride
            assert found.isfinite().all()


@torch.inference_mode()
def test_layers_as_a_pyramid() -> None:
    """Chosen layers in the order given, resampled to their strides; the rest is not computed."""
    every = small("dinov3")
    chosen = small("dinov3", maps=MapChoice(layers=(1, -2, 1), strides=(4, 16, 32)))
    assert [(b.channels, b.stride) for b in chosen.blocks] == [(24, 4), (24, 16), (24, 32)]
    assert chosen.scales == (4, 16, 32)
    ran = []
    for number, block in enumerate(chosen.net.blocks):
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
    images = torch.randn(1, 3, 96, 64)
    maps, plain = chosen(images), every(images)
    assert ran == [0, 1, 2]
    expected = F.interpolate(plain[1], (24, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(maps[0], expected)
    torch.testing.assert_close(maps[1], plain[2])
    torch.testing.assert_close(maps[2], F.avg_pool2d(plain[1], 2))


def test_parts_follow_the_depth() -> None:
    assert MapChoice(parts=4).places(12, "") == [2, 5, 8, 11]
    assert MapChoice(parts=4).places(24, "") == [5, 11, 17, 23]
    assert MapChoice(parts=4).places(2, "") == [0, 0, 1, 1]


def test_chosen_maps_are_kept_with_the_spec() -> None:
    pyramid = small("dinov2", maps=MapChoice(layers=(3, 0), strides=(8, 16), final_norm=True))
    again = build_pyramid(BackboneSpec.from_json(pyramid.spec.to_json()))
    assert (again.spec, again.blocks) == (pyramid.spec, pyramid.blocks)
    assert "maps" not in small("dinov2").spec.to_json()  # fingerprints of earlier versions
    copied = copy.deepcopy(small("dinov3, convnext", maps=MapChoice(layers=(-1,))))
    assert len(copied(torch.randn(1, 3, 64, 64))) == 1


def test_impossible_choices() -> None:
    with pytest.raises(InvalidOption, match="no layer 9: choose from 0 to 3"):
        small("dinov2", maps=MapChoice(layers=(9,)))
    with pytest.raises(InvalidOption, match="no plain transformer"):
        small("dinov3, convnext", maps=MapChoice(final_norm=True))
    with pytest.raises(InvalidOption, match="2 strides for 1 maps"):
        MapChoice(layers=(1,), strides=(4, 8))


def test_weights_that_lie_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file put there by hand is read; none there and no network: one line with the address and the place."""
    monkeypatch.setenv("FEWSEG_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name, options = SMALL_FOUNDATION["dinov2"]
    with pytest.raises(InvalidCheckpoint) as raised:
        create_backbone(name, options=options, pretrained=True)
    said = str(raised.value)
    assert "fetch https://huggingface.co/timm/vit_small_patch14_dinov2.lvd142m/resolve/main/model.safetensors" in said
    assert f"put it at {tmp_path / 'vit_small_patch14_dinov2.lvd142m.safetensors'}" in said
    assert "\n" not in said
    net = timm.create_model("vit_small_patch14_dinov2", pretrained=False, num_classes=0, **options)
    original = {**net.state_dict(), "mask_token": torch.zeros(1, 24)}  # Meta's own release has one
    save_file(original, tmp_path / "vit_small_patch14_dinov2.lvd142m.safetensors")
    read = create_backbone(name, options=options, pretrained=True)
    assert all(torch.equal(value, original[key]) for key, value in read.net.state_dict().items())


@pytest.mark.parametrize("family", SMALL_FOUNDATION)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_keeps_its_contract(method: str, family: str) -> None:
    check_method(made(method, family))


def made(method: str, family: str) -> FewShotMethod:
    torch.manual_seed(
        4
    )  # with others the light decoder's logits over SAM 2 are nearly zero: all of bfloat16's is noise
    name, options = SMALL_FOUNDATION[family]
    more = {"sccan": {"width": 32, "heads": 4, "blocks": 3}}.get(method, {})
    return create_method(method, backbone=name, backbone_options=options, image_size=64, **more)


def test_chosen_maps_tell_supports_apart(tmp_path: Path) -> None:
    """Supports of other layers do not fit, and a checkpoint keeps the choice."""
    name, options = SMALL_FOUNDATION["dinov3"]
    for maps in (None, MapChoice(layers=(1,))):
        method = create_method("prototype", backbone=name, backbone_options=options, backbone_maps=maps, image_size=64)
        save_method(method, tmp_path / "model.safetensors")
        again = load_method(tmp_path / "model.safetensors")
        query, images, masks = episode(method, 1, 1)
        torch.testing.assert_close(again(query, images, masks), method(query, images, masks))
    other = create_method("prototype", backbone=name, backbone_options=options, image_size=64)
    assert other.support_key != again.support_key


@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=[] if f in ("dinov3", "sam2") else pytest.mark.slow) for f in SMALL_FOUNDATION]
)
def test_labels_adapt(family: str) -> None:
    dataset = SyntheticDataset(per_class=4, size=64)
    segmenter = Segmenter(made("prototype", family), device="cpu", precision="float32")
    for name in dataset.names(5)[:3]:
        segmenter.teach("shape", dataset.image(name), dataset.mask(name, 5) == 1)
    report = segmenter.adapt("shape", seconds=1, force=True)["shape"]
    assert report.adapted
    assert np.isfinite(report.iou_after)
    found = segmenter.segment(dataset.image(dataset.names(5)[3]))
    assert np.isfinite(found.probabilities["shape"]).all()
