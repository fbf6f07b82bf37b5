"""HSNet: its arithmetic against plain definitions, its choices, its shots, its memory."""

from __future__ import annotations

import dataclasses
import random

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fewseg.core.errors import InvalidOption
from fewseg.models.methods import create_method
from fewseg.models.methods.hsnet import HSNet, HSNetConfig
from fewseg.models.methods.saved_names import first_identity
from fewseg.models.ops import correlation as ops
from fewseg.models.ops import group_norm
from fewseg.models.ops.correlation import PivotKernel
from fewseg.models.ops.fusion import hsnet_vote, mean_probability


def draw_kernel(rng: random.Random, inputs: int, *, size: int, stride: int) -> PivotKernel:
    outputs = rng.randint(1, 4)
    shapes = [(outputs, inputs, size, size), (outputs,)] * 2
    return PivotKernel(*(torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes), stride)


def assert_same(ours: Tensor, plain: Tensor, inputs: list[Tensor]) -> None:
    """Values and gradients."""
    torch.testing.assert_close(ours, plain)
    weights = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, weights), torch.autograd.grad(plain, inputs, weights), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_two_planes_are_the_full_sum(size: int, stride: int) -> None:
    rng = random.Random(10 * size + stride)
    torch.manual_seed(rng.randint(0, 999))
    for _ in range(3):
        b, hq, wq, hs, ws, c = (rng.randint(1, high) for high in (2, 4, 4, 7, 7, 3))
        kernel = draw_kernel(rng, c, size=size, stride=stride)
        x = torch.randn(b, hq, wq, hs, ws, c, dtype=torch.float64, requires_grad=True)
        plain = ops.centre_pivot_reference(x, kernel)
        assert_same(ops.centre_pivot_convolution(x, kernel), plain, [x, *kernel[:4]])


def draw_maps(rng: random.Random, batches: tuple[int, int]) -> list[list[Tensor]]:
    """Query and support unit maps of some blocks; parts of the support are masked out."""
    widths = [rng.randint(1, 6) for _ in range(rng.randint(1, 3))]
    planes = [[rng.randint(1, 8) for _ in range(2)] for _ in batches]
    query, support = (
        [ops.unit_maps(torch.randn(b, c, *plane, dtype=torch.float64)) for c in widths]
        for b, plane in zip(batches, planes, strict=True)
    )
    keep = torch.rand(batches[1], 1, *planes[1]) > rng.choice([0.0, 0.5, 0.9, 1.0])
    return [query, [s * keep for s in support]]


@pytest.mark.parametrize("batches", [(1, 1), (2, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("chunk", [1, 60, 2**20])
def test_correlation_in_parts_is_the_full_sum(monkeypatch, batches: tuple[int, int], chunk: int) -> None:
    monkeypatch.setattr(ops, "CHUNK_VALUES", chunk)
    rng = random.Random(chunk)
    torch.manual_seed(chunk)
    for size, stride in ((3, 2), (5, 4), (3, 1), (5, 2)):
        query, support = ([m.requires_grad_() for m in maps] for maps in draw_maps(rng, batches))
        kernel = draw_kernel(rng, len(query), size=size, stride=stride)
        whole = [s.expand(batches[0], -1, -1, -1) for s in support]
        plain = ops.centre_pivot_reference(ops.correlation(query, whole), kernel)
        assert_same(ops.convolve_correlation(query, support, kernel), plain, [*query, *support, *kernel[:4]])
        with torch.no_grad():
            torch.testing.assert_close(ops.convolve_correlation(query, support, kernel), plain)


@pytest.mark.parametrize(("side", "size", "stride"), [(1, 3, 2), (2, 5, 4), (3, 5, 4)])
def test_gradients_of_small_planes_in_bfloat16(side: int, size: int, stride: int) -> None:
    """Where part of a kernel meets padding alone torch adds what was in memory, on a CPU: often NaN."""
    for seed in range(5):
        torch.manual_seed(seed)
        shapes = [(64, 16, size, size), (64,)] * 2
        kernel = PivotKernel(*(torch.randn(s, dtype=torch.bfloat16, requires_grad=True) for s in shapes), stride)
        x = torch.randn(2, 8, 8, side, side, 16, dtype=torch.bfloat16)
        out = ops.centre_pivot_convolution(x, kernel)
        assert all(g.isfinite().all() for g in torch.autograd.grad(out.float().sum(), kernel[:4]))


def test_correlation_is_the_clamped_cosine() -> None:
    torch.manual_seed(0)
    query, support = torch.randn(1, 5, 2, 3), torch.randn(1, 5, 4, 2)
    whole = ops.correlation([ops.unit_maps(query)], [ops.unit_maps(support)])
    assert whole.shape == (1, 2, 3, 4, 2, 1)
    expected = F.cosine_similarity(query[0, :, 1, 2], support[0, :, 3, 0], dim=0).clamp(min=0)
    torch.testing.assert_close(whole[0, 1, 2, 3, 0, 0], expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_survive_half_precision(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for size in (0.0, 1e-6, 300.0):  # in float16 the squares of these are zero or infinite
        maps = (size * torch.randn(1, 64, 3, 3)).to(dtype)
        expected = ops.unit_maps(maps.double())
        torch.testing.assert_close(ops.unit_maps(maps).double(), expected, atol=4e-3, rtol=4e-3)


@pytest.mark.parametrize("shape", [(1, 7, 3, 8), (2, 50, 6, 16), (3, 1, 1, 4)], ids=str)
def test_group_norm_and_its_gradient(monkeypatch, shape: tuple[int, ...]) -> None:
    monkeypatch.setattr(group_norm, "CHUNK_VALUES", 100)
    torch.manual_seed(0)
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in (shape, shape[-1:], shape[-1:])]
    ours = group_norm.group_norm_relu(inputs[0], 4, *inputs[1:], 1e-5)
    plain = F.group_norm(inputs[0].permute(0, 3, 1, 2).contiguous(), 4, *inputs[1:], 1e-5).relu().permute(0, 2, 3, 1)
    assert_same(ours, plain, inputs)
    with torch.no_grad():
        torch.testing.assert_close(group_norm.group_norm_relu(inputs[0].clone(), 4, *inputs[1:], 1e-5), plain)


@torch.no_grad()
def test_group_norm_is_exact_over_many_positions() -> None:
    """Plain float32 sums over a 4-D tensor lose 5e-4."""
    torch.manual_seed(0)
    x = 0.1 * torch.randn(1, 1000, 169, 8) + torch.rand(8)
    one, zero = torch.ones(8), torch.zeros(8)
    expected = F.group_norm(x.double().permute(0, 3, 1, 2).contiguous(), 4).relu().permute(0, 2, 3, 1)
    torch.testing.assert_close(
        group_norm.group_norm_relu(x, 4, one, zero, 1e-5).double(), expected, atol=5e-6, rtol=1e-5
    )


def model(backbone: str = "tiny", **config: object) -> HSNet:
    torch.manual_seed(0)
    method = create_method("hsnet", backbone=backbone, image_size=64, **config)
    assert isinstance(method, HSNet)
    return method


def episode(shots: int = 2, batch: int = 1, size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    masks = torch.zeros(batch, shots, size, size)
    masks[..., size // 4 : size // 2, size // 8 : 3 * size // 4] = 1
    query = torch.randn(batch, 3, size, size, generator=rng)
    return query, torch.randn(batch, shots, 3, size, size, generator=rng), masks


@pytest.mark.parametrize("backbone", ["tiny", "mobilenetv2_100", "vit_tiny_patch16_224", "resnet18"])
def test_every_backbone_runs_and_trains(backbone: str) -> None:
    method = model(backbone).train()
    logits = method(*episode(shots=1))
    assert logits.shape == (1, 2, 64, 64)
    logits.square().mean().backward()
    assert all(p.grad is not None for n, p in method.named_parameters() if not n.startswith("backbone."))


@pytest.mark.parametrize(("scales", "support"), [((4, 8), (32, 16)), ((4, 32), (32, 4)), ((8, 16, 32), (16, 4))])
@torch.inference_mode()
def test_planes_that_disagree_are_resized(scales: tuple[int, ...], support: tuple[int, int]) -> None:
    """Scale 1/4 is squeezed less than its plane is larger; the supports of other backbones may not agree either."""
    method = model(scales=scales)
    query, images, masks = episode(size=128)
    assert method(query, images, masks).isfinite().all()
    small = images[..., : 4 * support[0], : 4 * support[1]], masks[..., : 4 * support[0], : 4 * support[1]]
    assert method.segment(query, method.encode_support(*small)).shape == (1, 2, 128, 128)


def test_sizes_come_from_the_pyramid_and_the_nearest_scale() -> None:
    method = model("resnet18", scales=(4, 8, 16, 32))
    sizes = {
        scale: [(b.query.in_channels, b.query.kernel_size[0], b.support.stride[0]) for b in blocks]
        for scale, blocks in method.squeeze.items()
    }
    assert sizes["32"] == [(2, 3, 2), (16, 3, 2), (64, 3, 2)]
    assert sizes["16"] == [(2, 5, 4), (16, 3, 2), (64, 3, 2)]
    assert sizes["4"] == sizes["8"] == [(2, 5, 4), (16, 5, 4), (64, 3, 2)]
    assert list(method.mix) == ["16", "8", "4"]
    assert list(model(scales=(16, 64)).squeeze) == ["16"]  # what the backbone lacks is left out


@torch.inference_mode()
def test_background_is_removed_and_shots_are_kept_apart() -> None:
    method = model()
    _, images, masks = episode()
    maps = method.backbone(images.flatten(0, 1))
    known = method.support_from_maps(maps, masks)
    sizes = {f"map.{i}": tuple(maps[i].shape[1:]) for i, b in enumerate(method.backbone.blocks) if b.scale > 4}
    assert {k: tuple(v.shape) for k, v in known.tensors.items()} == {k: (1, 2, *s) for k, s in sizes.items()}
    covered = [
        F.interpolate(masks.flatten(0, 1)[:, None], m.shape[-2:], mode="bilinear", align_corners=True) for m in maps
    ]
    changed = [torch.where(c > 0, m, m + 1) for m, c in zip(maps, covered, strict=True)]
    for name, tensor in method.support_from_maps(changed, masks).tensors.items():
        torch.testing.assert_close(tensor, known.tensors[name])


@torch.inference_mode()
def test_shots_are_fused_as_the_config_says() -> None:
    query, images, masks = episode(shots=3, batch=2)
    for fusion, fuse in (("vote", hsnet_vote), ("average", mean_probability)):
        method = model(fusion=fusion)
        alone = [method(query, images[:, [k]], masks[:, [k]]) for k in range(3)]
        torch.testing.assert_close(method(query, images, masks), fuse(torch.stack(alone, 1)), atol=1e-5, rtol=1e-4)
        together = method.train()(query, images, masks)
        torch.testing.assert_close(together, torch.stack(alone).mean(0), atol=1e-5, rtol=1e-4)


def test_gradients_do_not_change_the_logits() -> None:
    """In place and in parts without gradients, recomputed with them: the same numbers."""
    method = model()
    with torch.inference_mode():
        lean = method(*episode())
    torch.testing.assert_close(method(*episode()).detach(), lean, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_exported_graph_serves_other_masks() -> None:
    """Which support positions the mask leaves out must not become part of the graph."""
    method = model()
    query, images, masks = episode(shots=1)
    graph = torch.export.export(method, (query, images, masks)).module()
    torch.testing.assert_close(graph(query, images, 1 - masks), method(query, images, 1 - masks), atol=1e-6, rtol=1e-4)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.elements = max([self.elements, *sizes])
        return result


@pytest.mark.parametrize("gradients", [False, True])
def test_the_correlation_is_never_whole(monkeypatch, gradients: bool) -> None:
    monkeypatch.setattr(ops, "CHUNK_VALUES", 2**12)
    method = model(scales=(8,))
    query, images, masks = episode(shots=1, size=256)
    with torch.set_grad_enabled(gradients), Largest() as largest:
        features, support = method.encode_query(query), method.encode_support(images, masks)
        largest.elements = 0
        logits = method.segment(features, support)
        if gradients:
            logits.mean().backward()
    blocks = sum(b.scale == 8 for b in method.backbone.blocks)
    assert largest.elements < blocks * (32 * 32) ** 2 / 2


def test_impossible_choices_are_named() -> None:
    with pytest.raises(InvalidOption, match="did you mean 'vote'"):
        model(fusion="votes")
    with pytest.raises(InvalidOption, match=r"has only 1/16: choose scales"):
        model("vit_tiny_patch16_224", scales=(8, 32))
    with pytest.raises(InvalidOption, match=r"scales has \[7\]"):
        model(scales=(7, 8))
    with pytest.raises(InvalidOption, match="image_size"):
        create_method("hsnet", backbone="tiny", image_size=8)


@torch.inference_mode()
def test_without_support_masking_the_masks_are_not_used() -> None:
    query, images, masks = episode()
    masked, plain = model(), model(support_masking=False)
    assert torch.equal(plain(query, images, masks), plain(query, images, 1 - masks))
    assert torch.equal(plain(query, images, masks), masked(query, images, torch.ones_like(masks)))
    assert masked.support_key != plain.support_key


def test_keys_of_taught_supports_are_those_from_before_the_option() -> None:
    values = dataclasses.asdict(HSNetConfig())
    assert values.pop("support_masking")
    assert first_identity("hsnet", dataclasses.asdict(HSNetConfig())) == ("hsnet", values)


@pytest.mark.parametrize(
    ("backbone", "weights", "classifier"),
    [("resnet50", "resnet50.tv_in1k", "fc.bias"), ("vgg16", "vgg16.tv_in1k", "pre_logits.fc1.bias")],
)
def test_pretrained_backbones_are_torchvisions_first(
    monkeypatch, tmp_path, backbone: str, weights: str, classifier: str
) -> None:
    """By timm's name for them, from the folder of weights where there is no network."""
    monkeypatch.setenv("FEWSEG_WEIGHTS", str(tmp_path))
    published = {k: v.clone() for k, v in create_method("hsnet", backbone=backbone).backbone.net.state_dict().items()}
    save_file({**published, classifier: torch.zeros(1)}, tmp_path / f"{weights}.safetensors")
    own = create_method("hsnet", backbone=backbone, pretrained=True).backbone.net.state_dict()
    assert all(torch.equal(own[key], value) for key, value in published.items())
    assert timm.get_pretrained_cfg(weights).tag == "tv_in1k"
