"""Feature pyramids of many families: every block's map, uncorrupted, frozen, loadable offline."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.resnet import Bottleneck
from torch.nn import functional as F

from fewseg.core.errors import InvalidCheckpoint, InvalidOption
from fewseg.images.transforms import IMAGENET_MEAN, IMAGENET_STD
from fewseg.models.backbones import BackboneSpec, build_pyramid, create_backbone
from fewseg.models.backbones.timm_pyramid import ResNetPyramid, resnet_stages
from fewseg.models.backbones.tiny import ConvNorm, TinyNet

FAMILIES = {
    # name: blocks, scales
    "resnet18": (8, (4, 8, 16, 32)),
    "resnet50": (16, (4, 8, 16, 32)),
    "mobilenetv2_035": (17, (2, 4, 8, 16, 32)),
    "mobilenetv3_small_050": (12, (4, 8, 16, 32)),
    "efficientnet_b0": (16, (2, 4, 8, 16, 32)),
    "convnext_atto": (12, (4, 8, 16, 32)),
    "regnetx_002": (15, (2, 4, 8, 16, 32)),
    "resnetv2_50": (16, (4, 8, 16, 32)),
    "swin_tiny_patch4_window7_224": (12, (4, 8, 16, 32)),
    "vit_tiny_patch16_224": (12, (16,)),
    "vit_small_patch14_dinov2": (12, (16,)),
    "hrnet_w18_small": (5, (2, 4, 8, 16, 32)),
    "tiny": (16, (4, 8, 16, 32)),
}


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_family(name: str) -> None:
    pyramid = create_backbone(name)
    assert (len(pyramid.blocks), pyramid.scales) == FAMILIES[name]
    maps = pyramid(torch.randn(2, 3, 128, 96))
    for feature_map, block in zip(maps, pyramid.blocks, strict=True):
        assert feature_map.shape[:2] == (2, block.channels)
        assert feature_map.shape[-2] / feature_map.shape[-1] == pytest.approx(128 / 96, rel=0.2)
        assert abs(128 / feature_map.shape[-2] - block.stride) < 0.15 * block.stride
    assert not any(p.requires_grad for p in pyramid.parameters())


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_035", "resnetv2_50", "densenet121", "convnext_atto"])
@torch.inference_mode()
def test_maps_are_not_overwritten_later(name: str) -> None:
    """Maps cloned at the moment a block returns equal the maps returned at the end (in-place ReLUs break this)."""
    torch.manual_seed(0)
    pyramid = create_backbone(name)
    clones = []
    if hasattr(pyramid, "taps"):
        blocks = [pyramid.net.get_submodule(tap) for tap in pyramid.taps]
    else:
        blocks = [block for stage in resnet_stages(pyramid.net) for block in stage]
    handles = [b.register_forward_hook(lambda _m, _i, out: clones.append(out.clone())) for b in blocks]
    maps = pyramid(torch.randn(1, 3, 64, 64))
    for handle in handles:
        handle.remove()
    assert len(clones) == len(maps)
    for clone, kept in zip(clones, maps, strict=True):
        assert torch.equal(clone, kept)


@torch.inference_mode()
def test_resnet_maps_are_before_the_last_relu() -> None:
    """Against timm's own blocks, their residual sums recomputed outside the pyramid."""
    torch.manual_seed(0)
    pyramid = create_backbone("resnet50").double()
    for module in pyramid.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)  # timm starts the last of each block from zero
    net = timm.create_model("resnet50", pretrained=False, num_classes=0).eval().double()
    net.load_state_dict(pyramid.net.state_dict())
    x = torch.randn(1, 3, 64, 64, dtype=torch.double)
    y = net.maxpool(torch.relu(net.bn1(net.conv1(x))))
    expected = []
    for block in [b for s in (net.layer1, net.layer2, net.layer3, net.layer4) for b in s]:
        assert isinstance(block, Bottleneck)
        z = torch.relu(block.bn1(block.conv1(y)))
        z = block.bn3(block.conv3(torch.relu(block.bn2(block.conv2(z)))))
        z = z + (y if block.downsample is None else block.downsample(y))
        expected.append(z)
        y = torch.relu(z)
    for ours, wanted in zip(pyramid(x), expected, strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-9, rtol=1e-9)
        assert (ours < 0).any()


def test_other_residual_blocks_keep_their_relu() -> None:
    """Res2Net and SKNet are timm ResNets too, but their blocks end otherwise."""
    for name in ("res2net50_14w_8s", "skresnet18"):
        pyramid = create_backbone(name)
        assert not isinstance(pyramid, ResNetPyramid)
        assert pyramid.scales[-3:] == (8, 16, 32)


def test_measuring_leaves_the_statistics_alone() -> None:
    state = create_backbone("resnet18").state_dict()
    assert not any(v.any() for k, v in state.items() if k.endswith("num_batches_tracked"))


def test_local_weights_with_metadata(tmp_path) -> None:
    """Constructor options and scaling travel in the file; the classifier is left out."""
    torch.manual_seed(0)
    net = timm.create_model("mobilenetv2_035", pretrained=False, pad_type="same").eval()
    path = tmp_path / "weights.safetensors"
    save_file(net.state_dict(), path, {"kwargs": "pad_type='same'", "norm": "mean=std=0.5"})
    pyramid = create_backbone("mobilenetv2_035", weights=path)
    assert pyramid.spec == BackboneSpec("mobilenetv2_035", {"pad_type": "same"}, (0.5,) * 3, (0.5,) * 3)
    pixels = torch.rand(1, 3, 72, 72)
    images = (pixels - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    with torch.inference_mode():
        expected = net.blocks(net.bn1(net.conv_stem(pixels * 2 - 1)))
        torch.testing.assert_close(pyramid(images)[-1], expected, atol=1e-4, rtol=1e-4)
    again = build_pyramid(BackboneSpec.from_json(pyramid.spec.to_json()))
    again.load_state_dict(pyramid.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(again(images)[-1], pyramid(images)[-1])


def test_weights_that_do_not_fit_are_named(tmp_path) -> None:
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    torch.save(state, tmp_path / "resnet18.pt")
    create_backbone("resnet18", weights=tmp_path / "resnet18.pt")
    with pytest.raises(InvalidCheckpoint, match=r"resnet18\.pt does not fit backbone resnet34: it lacks layer1\.2"):
        create_backbone("resnet34", weights=tmp_path / "resnet18.pt")
    with pytest.raises(InvalidCheckpoint, match="no such file"):
        create_backbone("resnet18", weights=tmp_path / "nowhere.pt")


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(InvalidOption, match="mobilenetv2_100"):
        create_backbone("mobilenetv2_10")
    with pytest.raises(InvalidOption, match="half"):
        create_backbone("resnet18", normalisation="halve")
    with pytest.raises(InvalidOption, match="does not take"):
        create_backbone("mobilenetv2_035", options={"no_such_option": 1})
    with pytest.raises(InvalidOption, match="tiny does not take the options"):
        create_backbone("tiny", options={"pad_type": "same"})
    with pytest.raises(InvalidOption, match="did you mean 'resnet50' or 'resnet51q'"):
        create_backbone("resnet5")


def test_freezing() -> None:
    pyramid = create_backbone("tiny").train()
    x = torch.randn(1, 3, 64, 64)
    assert not pyramid.training
    assert not pyramid(x)[-1].requires_grad
    assert pyramid.freeze(False)(x)[-1].requires_grad


@torch.inference_mode()
def test_folding_keeps_the_outputs() -> None:
    torch.manual_seed(0)
    net = TinyNet()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    net.eval()
    folded = copy.deepcopy(net).fold_batch_norm()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    x = torch.randn(2, 3, 70, 50)
    for before, after in zip(net(x), folded(x), strict=True):
        torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(12, 12), (13, 12), (12, 15), (13, 15)])
@pytest.mark.parametrize("groups", [1, 4])
def test_strides_put_the_odd_pixel_of_the_padding_last(size: tuple[int, int], groups: int) -> None:
    torch.manual_seed(0)
    layer = ConvNorm(4, 8, 3, 2, groups).eval()
    x = torch.randn(2, 4, *size)
    padded = F.pad(x, (size[1] % 2, 1, size[0] % 2, 1))
    with torch.inference_mode():
        wanted = F.conv2d(padded, layer.conv.weight, stride=2, groups=groups)
        torch.testing.assert_close(layer(x) * (1 + 1e-5) ** 0.5, wanted)
        layer.fold()
        torch.testing.assert_close(layer(x) * (1 + 1e-5) ** 0.5, wanted)


def test_blocks_that_give_no_maps_fall_back_to_stages() -> None:
    """Blocks of CAFormer's later stages give tokens, those of NesT windows of tokens."""
    assert {b.scale for b in create_backbone("caformer_s18").blocks} == {4, 8, 16, 32}
    assert {b.scale for b in create_backbone("nest_tiny").blocks} == {4, 8, 16}


def test_weights_that_are_none_are_told(tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(InvalidCheckpoint):
        create_backbone("tiny", weights=tmp_path / "empty.safetensors")
    (tmp_path / "page.pth").write_text("Rate limit exceeded")
    with pytest.raises(InvalidCheckpoint, match=r"page\.pth"):
        create_backbone("resnet18", weights=tmp_path / "page.pth")
    torch.save({1: torch.zeros(1)}, tmp_path / "numbers.pth")
    with pytest.raises(InvalidCheckpoint, match="expected parameter names"):
        create_backbone("resnet18", weights=tmp_path / "numbers.pth")


def test_an_unknown_tag_of_weights_is_told() -> None:
    with pytest.raises(InvalidOption, match="unknown weights of resnet18 'a9_in1k'; did you mean"):
        create_backbone("resnet18.a9_in1k")
    with pytest.raises(InvalidOption, match="does not take the options"):
        create_backbone("resnet18", options={"output_stride": 7})


@pytest.mark.parametrize("name", ["vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3"])
@torch.inference_mode()
def test_final_norm_gives_the_last_tokens(name: str) -> None:
    """The last map behind `final_norm` is the network's patch tokens, without class and register tokens."""
    pyramid = create_backbone(name).eval()
    patch = pyramid.multiple
    images = torch.randn(1, 3, 5 * patch, 9 * patch)
    tokens = pyramid.final_norm(pyramid(images)[-1].permute(0, 2, 3, 1))
    assert tokens.shape == (1, 5, 9, 384)
    expected = pyramid.net.forward_features(images)[:, 5:]  # a class token and four registers
    torch.testing.assert_close(tokens.flatten(1, 2), expected, rtol=0, atol=0)


def test_networks_without_a_final_norm_keep_their_features() -> None:
    tokens = torch.randn(2, 3, 3, 320)
    assert create_backbone("tiny").final_norm(tokens) is tokens
