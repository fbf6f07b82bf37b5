"""SCCAN's own choices, its backbones, and its operations against plain definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import resnet50

from fewseg.core.errors import InvalidOption
from fewseg.models.backbones import BlockInfo, create_backbone
from fewseg.models.backbones.levels import middle_levels
from fewseg.models.methods import create_method
from fewseg.models.methods.sccan.blocks import Block, Head, Stream, Transformer
from fewseg.models.methods.sccan.config import SCCANConfig
from fewseg.models.methods.sccan.method import SCCAN
from fewseg.models.ops import prior as prior_module
from fewseg.models.ops.cosine import unit
from fewseg.models.ops.prior import cosine_prior
from fewseg.models.ops.window_attention import align, partition, take, unite

SMALL = {"image_size": 64, "width": 32, "blocks": 3, "heads": 4, "window": 4}


def model(backbone: str = "tiny", **config: object) -> SCCAN:
    torch.manual_seed(0)
    method = create_method("sccan", backbone=backbone, **{**SMALL, **config})
    assert isinstance(method, SCCAN)
    return method


def episode(shots: int = 2, size: tuple[int, int] = (64, 64)) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    masks = torch.zeros(1, shots, *size)
    masks[..., 16:40, 8:48] = 1
    return torch.randn(1, 3, *size, generator=rng), torch.randn(1, shots, 3, *size, generator=rng), masks


# Choices


@pytest.mark.parametrize("prior", [True, False])
def test_an_alike_start_reduces_query_and_support_alike(prior: bool) -> None:
    usual, alike = model(prior=prior), model(prior=prior, alike_start=True)
    assert not torch.equal(usual.down_query.weight, usual.down_support.weight)
    assert torch.equal(alike.down_query.weight, alike.down_support.weight)
    both = alike.merge_query.in_channels
    assert torch.equal(alike.merge_query.weight, alike.merge_support.weight[:, :both])
    if prior:
        # A 1 x 1 convolution of one input is drawn from [-1, 1].
        assert 0.8 < alike.merge_query.weight[:, -1].abs().max() <= 1
        assert torch.equal(alike.merge_query.weight[:, :-1], usual.merge_query.weight[:, :-1])


@pytest.mark.parametrize(
    "config",
    [
        {"blocks": 1},
        {"heads": 1, "mlp_ratio": 2.0},
        {"window": 2, "feature_size": 12},
        {"window": 3, "feature_size": 9, "shift": False},
        {"shift": False},
        {"align": False},
        {"cosine": False},
        {"self_calibrated": False},
        {"prior": False},
        {"implementation": "streaming"},
        {"dropout": 0.0, "head_dropout": 0.0},
        {"alike_start": True},
    ],
    ids=str,
)
def test_every_choice_runs_and_trains(config: dict[str, object]) -> None:
    method = model(**config).train()
    logits = method(*episode())
    assert logits.shape == (1, 2, 64, 64)
    logits.square().mean().backward()
    for name, parameter in method.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name


@pytest.mark.parametrize("choice", ["shift", "align", "cosine", "self_calibrated"])
@torch.inference_mode()
def test_choices_change_the_result(choice: str) -> None:
    plain, changed = model(), model(**{choice: False})
    changed.load_state_dict(plain.state_dict())
    assert (plain(*episode()) - changed(*episode())).abs().max() > 1e-5


@torch.inference_mode()
def test_the_prior_reaches_the_query() -> None:
    method = model()
    with_prior = method(*episode())
    method.merge_query.weight[:, -1] = 0
    assert (method(*episode()) - with_prior).abs().max() > 1e-5


@pytest.mark.parametrize(("image", "grid"), [(473, 64), (384, 48), (320, 40), (513, 72), (64, 8)])
def test_grid(image: int, grid: int) -> None:
    """473 pixels: 60 features a side, in 8 whole windows 64, as published."""
    assert model(image_size=image, window=8).grid == (grid, grid)
    assert model(image_size=image, window=8, feature_size=16).grid == (16, 16)


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "vit_tiny_patch16_224", "resnet18", "densenet121"])
@torch.inference_mode()
def test_other_backbones_and_shapes(backbone: str) -> None:
    method = model(backbone)
    assert method(*episode(1, (64, 97))).shape == (1, 2, 64, 97)


def test_adamw_parameters_are_the_transformer() -> None:
    method = model()
    named = {name for name, _ in method.named_parameters() if name.startswith(method.adamw_parameters)}
    assert named == {f"transformer.{name}" for name, _ in method.transformer.named_parameters()}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"feature_size": 10}, "feature_size 10 is not a multiple of window 4"),
        ({"width": 30}, "width 30 is not a multiple of heads 4"),
        ({"window": 3, "feature_size": 9}, "window 3 cannot be shifted"),
        ({"blocks": 0}, "blocks 0"),
        ({"image_size": 64.5}, "image_size 64.5"),
        ({"dropout": 1.0}, "dropout 1.0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio 0.0"),
        ({"implementation": "stream"}, "did you mean 'streaming'"),
    ],
    ids=str,
)
def test_impossible_choices_are_named(config: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        model(**config)


# What is kept with the support


def test_the_support_stream_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method, runs = model(), []
    encode = Transformer.encode_support
    monkeypatch.setattr(Transformer, "encode_support", lambda *inputs: runs.append(1) or encode(*inputs))
    query, images, masks = episode()
    with torch.inference_mode():
        support = method.encode_support(images, masks)
        first = method.segment(query, support)
        torch.testing.assert_close(method.segment(query, support), first)
        assert len(runs) == 1
        method.segment(query, support.drop(0))  # other shots, another stream
        assert len(runs) == 2


def test_nothing_is_kept_while_gradients_flow() -> None:
    method = model()
    query, images, masks = episode()
    support = method.encode_support(images, masks)
    method.segment(query, support)
    assert not support.shared
    with torch.no_grad():
        method.segment(query, support)
    assert support.shared
    method.segment(query, support).square().mean().backward()  # from the start, not from what is kept
    assert method.transformer.blocks[0].support.kv.weight.grad is not None
    assert method.down_support.weight.grad is not None


@torch.inference_mode()
def test_the_order_of_shots_is_nothing() -> None:
    method, (query, images, masks) = model(), episode(3)
    masks[:, 1] = masks[:, 0].transpose(1, 2)
    turned = method(query, images.flip(1), masks.flip(1))
    torch.testing.assert_close(turned, method(query, images, masks), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_blank_inputs_are_finite_in_half_precision(dtype: torch.dtype) -> None:
    """No foreground, constant images: every norm, mask sum and range that is divided by is zero."""
    method = model().to(dtype)
    for parameter in method.transformer.parameters():
        parameter.zero_()
    query, images, masks = episode()
    for mask in (torch.zeros_like(masks), masks):
        assert method(torch.zeros_like(query), torch.zeros_like(images), mask).isfinite().all()


@pytest.mark.parametrize("implementation", ["reference", "streaming"])
def test_mixed_precision_trains(implementation: str) -> None:
    method, inputs = model(implementation=implementation), episode()
    exact = method(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        logits = method(*inputs)
    assert (logits.float() - exact).abs().mean() < 0.05 * exact.std()
    logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() for p in method.trainable_parameters())


# The block, by its definition


def plain_block(block: Block, query: Tensor, support: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """One episode's query and support (H, W, C), mask (H, W), after a block: token by token, window by window."""
    q, s = block.norm1(query), block.norm1(support)
    pad, side, size = block.padding, block.config.window, query.shape[0]
    q, s = (F.pad(x, (0, 0, pad, pad, pad, pad)) for x in (q, s))
    m = F.pad(mask, (pad,) * 4)
    cells = [(slice(y, y + side), slice(x, x + side)) for y in range(0, len(q), side) for x in range(0, len(q), side)]
    new_query, new_support = torch.zeros_like(q), torch.zeros_like(s)
    for here in cells:
        values = []
        for there in cells:
            area = m[there].sum()
            prototype = (s[there] * m[there].unsqueeze(-1)).sum((0, 1)) / (area + 5e-4)
            mean = q[here].mean((0, 1))
            cosine = (mean @ prototype) / (mean.norm() * prototype.norm() + 1e-7)
            values.append(float((cosine + 1) / 2) if area > 0 else 0.0)
        chosen = cells[values.index(max(values))] if block.config.align else here
        new_query[here] = plain_attention(block, block.query, q[here], s[chosen])
        if block.support is not None:
            new_support[here] = plain_attention(block, block.support, s[here], None)
    inside = slice(pad, pad + size)
    query, support = query + new_query[inside, inside], support + new_support[inside, inside]
    query = query + block.query.mlp(block.norm2(query))
    return query, support if block.support is None else support + block.support.mlp(block.norm2(support))


def plain_attention(block: Block, stream: Stream, here: Tensor, aligned: Tensor | None) -> Tensor:
    """Tokens (side, side, C) that look at themselves and, if given, at those of the aligned support window."""
    width, heads = here.shape[-1], stream.heads
    tokens, d = here.reshape(-1, width), width // heads
    keys, values = stream.kv(tokens).split(width, -1)
    far_keys, far_values = stream.kv(tokens if aligned is None else aligned.reshape(-1, width)).split(width, -1)
    out = torch.zeros_like(tokens)
    for head in range(heads):
        part = slice(head * d, (head + 1) * d)
        for i, q in enumerate(stream.q(tokens)[:, part]):
            logits, weighed = [], []
            if aligned is None or block.config.self_calibrated:
                logits += [q @ k / math.sqrt(d) for k in keys[:, part]]
                weighed += list(values[:, part])
            for k, v in zip(far_keys[:, part], far_values[:, part], strict=True) if aligned is not None else ():
                cosine = q @ k / (q.norm() * k.norm() + 1e-7)
                logits.append(cosine if block.config.cosine else q @ k / math.sqrt(d))
                weighed.append(v)
            out[i, part] = torch.stack(logits).softmax(0) @ torch.stack(weighed)
    return stream.proj(out).view(here.shape)


@pytest.mark.parametrize("implementation", ["reference", "streaming"])
@pytest.mark.parametrize(
    "choice", [{}, {"align": False}, {"cosine": False}, {"self_calibrated": False}, {"shift": False}], ids=str
)
@pytest.mark.parametrize(("index", "side", "window", "heads"), [(0, 6, 2, 2), (1, 4, 2, 3), (1, 4, 4, 1)])
@torch.inference_mode()
def test_block(choice: dict[str, bool], index: int, side: int, window: int, heads: int, implementation: str) -> None:
    torch.manual_seed(side * window)
    block = Block(SCCANConfig(width=6, heads=heads, window=window, implementation=implementation, **choice), index)
    query, support = 3 * torch.randn(2, side, side, 6), 3 * torch.randn(2, side, side, 6)
    mask = torch.rand(2, side, side, 1)
    mask[:, : side // 2] = 0  # windows without foreground
    windows = block.encode_support(support, mask)
    new_query, new_support = block(query, windows), block.next_support(support)
    for b in range(2):
        plain = plain_block(block, query[b], support[b], mask[b, ..., 0])
        torch.testing.assert_close(new_query[b], plain[0], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(new_support[b], plain[1], atol=1e-5, rtol=1e-5)
    one = block(query, type(windows)(*(tensor[:1] for tensor in windows)))  # one support for two queries
    torch.testing.assert_close(one[0], new_query[0], atol=1e-6, rtol=1e-5)
    plain = plain_block(block, query[1], support[0], mask[0, ..., 0])
    torch.testing.assert_close(one[1], plain[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("choice", [{}, {"cosine": False}, {"self_calibrated": False}], ids=str)
def test_implementations_have_the_same_gradients(choice: dict[str, bool]) -> None:
    plain, lean = (model(implementation=name, **choice) for name in ("reference", "streaming"))
    gradients = []
    for method in (plain, lean):
        method(*episode()).square().mean().backward()
        gradients.append({n: p.grad for n, p in method.named_parameters() if p.grad is not None})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-3)


def test_windows_and_back() -> None:
    x = torch.randn(2, 6, 9, 5)
    assert torch.equal(unite(partition(x, 3), 3, (6, 9)), x)
    assert torch.equal(partition(x, 3)[1, 4], x[1, 3:6, 3:6].reshape(9, 5))
    x = torch.randn(2, 8, 8, 5)
    padded = partition(x, 4, 2)
    assert padded.shape == (2, 9, 16, 5)
    assert not padded[:, 0, :8].any()
    assert torch.equal(unite(padded, 4, (8, 8), 2), x)


def test_alignment_takes_the_first_of_equals_and_shuns_the_background() -> None:
    query = torch.tensor([[[1.0, 0], [0, 1], [-1, 0]]])
    support = torch.tensor([[[0.0, 1], [2, 0], [2, 0], [0, 1]]])
    assert align(query, support, torch.ones(1, 4)).tolist() == [[1, 0, 0]]
    assert align(query, support, torch.tensor([[0.0, 0, 1, 1]])).tolist() == [[2, 3, 3]]
    assert align(query, support, torch.zeros(1, 4)).tolist() == [[0, 0, 0]]  # no foreground at all
    windows = torch.randn(2, 4, 3, 5)
    index = torch.tensor([[3, 3, 0], [1, 2, 1]])
    assert torch.equal(take(windows, index)[1], windows[1, [1, 2, 1]])
    assert torch.equal(take(windows[:1], index)[1], windows[0, [1, 2, 1]])


# The prior, by its definition


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("chunk", [2**22, 50])
@torch.inference_mode()
def test_prior(batch: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prior_module, "CHUNK_SCORES", chunk)
    torch.manual_seed(batch)
    query, support = torch.randn(3, 7, 11), torch.randn(batch, 7, 13)
    mask = torch.rand(batch, 13)
    fast = cosine_prior(unit(query, 1), unit(support, 1), mask)
    assert fast.shape == (3, 11)
    for b in range(3):
        s, m = support[b % batch].double(), mask[b % batch].double()
        raw = torch.zeros(11, dtype=torch.float64)
        for i, q in enumerate(query[b].double().T):
            cosines = torch.stack([q @ k / (q.norm() * k.norm() + 1e-7) for k in s.T])
            raw[i] = cosines.softmax(0) @ m
        expected = (raw - raw.min()) / (raw.max() - raw.min() + 1e-7)
        torch.testing.assert_close(fast[b].double(), expected, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_prior_of_several_shots_is_their_mean() -> None:
    method, (query, images, masks) = model(), episode(3)
    features, support = method.encode_query(query), method.encode_support(images, masks)
    each = [method.prior(features, support.select([k])) for k in range(3)]
    torch.testing.assert_close(method.prior(features, support), torch.stack(each).mean(0))


@torch.inference_mode()
def test_prior_survives_half_precision() -> None:
    """Its raw range is tiny: summed in half precision, nothing but steps would be left."""
    method, (query, images, masks) = model("mobilenetv2_100"), episode()
    exact = method.prior(method.encode_query(query), method.encode_support(images, masks))
    low = method.bfloat16()
    rounded = low.prior(low.encode_query(query), low.encode_support(images, masks))
    assert (rounded.float() - exact).abs().mean() < 0.05


# Backbones


@torch.inference_mode()
def test_deep_backbone_is_torchvisions_with_another_stem(tmp_path) -> None:
    """Strides and dilations as `replace_stride_with_dilation` sets them; weights under the stem's released names."""
    torch.manual_seed(0)
    pyramid = create_backbone("resnet50_deep_dilated")
    for module in pyramid.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)  # timm starts the last of each block from zero
    pyramid.double()
    reference = resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    reference.conv1, reference.bn1 = pyramid.net.conv1, pyramid.net.bn1
    reference.layer1[0].conv1 = torch.nn.Conv2d(128, 64, 1, bias=False)
    reference.layer1[0].downsample[0] = torch.nn.Conv2d(128, 256, 1, bias=False)
    reference.double()
    state = pyramid.net.state_dict()
    assert not reference.load_state_dict(state, strict=False).unexpected_keys
    images = torch.randn(1, 3, 89, 65, dtype=torch.double)
    x = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
    for stage, feature_map in enumerate(pyramid(images), 1):
        x = getattr(reference, f"layer{stage}")(x)
        torch.testing.assert_close(feature_map, x, atol=1e-9, rtol=1e-9)
        assert feature_map.min() == 0
    names = {"conv1.0": "conv1", "conv1.1": "bn1", "conv1.3": "conv2", "conv1.4": "bn2", "conv1.6": "conv3"}
    names["bn1"] = "bn3"
    theirs = {}
    for key, value in state.items():
        layer = key.rsplit(".", 1)[0]
        theirs[key.replace(layer, names.get(layer, layer), 1)] = value
    torch.save({**theirs, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "stem.pth")
    again = create_backbone("resnet50_deep_dilated", weights=tmp_path / "stem.pth").double()
    torch.testing.assert_close(again(images)[-1], x, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([(256, 4), (512, 8), (1024, 8), (2048, 8)], (1, 2)),  # dilated: the second and third stage
        ([(64, 4)] * 2 + [(128, 8)] * 2 + [(256, 16)] * 2 + [(512, 32)] * 2, (3, 5)),
        ([(24, 4), (32, 8), (64, 16), (96, 16), (160, 32), (320, 32)], (1, 3)),
        ([(64, 4), (128, 8), (256, 16), (512, 16)], (1, 2)),
        ([(96, 16), (192, 32), (384, 32)], (0, 1)),
        ([(192, 16)] * 12, (5, 8)),
        ([(192, 16)] * 2, (0, 0)),
        ([(192, 16)], (0, 0)),
    ],
)
def test_middle_levels(levels: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    assert middle_levels([BlockInfo(*level) for level in levels]) == expected


def test_what_autocast_rounded_is_not_kept() -> None:
    method = create_method("sccan", backbone="tiny", image_size=96).eval()
    images, masks, query = torch.randn(1, 1, 3, 96, 96), torch.ones(1, 1, 96, 96), torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        support = method.encode_support(images, masks)
        with torch.autocast("cpu", torch.bfloat16):
            method.segment(query, support)
        found = method.segment(query, support)
        torch.testing.assert_close(found, method.segment(query, method.encode_support(images, masks)))
        again = method.encode_support(images, masks)
        method.prepare_support(again)
        assert again.shared


def test_the_pyramid_of_the_head_starts_kaiming_normal() -> None:
    torch.manual_seed(0)
    weights = [branch.weight for branch in Head(256, 0.1).branches]
    for weight in weights:  # of 65,536 draws or more: the spread is within 1 % of the true one
        assert weight.std().item() == pytest.approx(math.sqrt(2 / weight[0].numel()), rel=0.02)
        assert weight.abs().max() > 3 * weight.std()  # not uniform, as torch's own start
