"""DCAMA's own choices: each ablated design is a field of the config and does what it says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewseg.core.errors import InvalidOption
from fewseg.models.methods import create_method
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.models.ops.position import position_encoding
from fewseg.models.ops.token_budget import budget_tokens


def model(backbone: str = "tiny", **config: object) -> DCAMA:
    torch.manual_seed(0)
    method = create_method("dcama", backbone=backbone, image_size=64, **config)
    assert isinstance(method, DCAMA)
    return method


def episode(shots: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    masks = torch.zeros(1, shots, 64, 64)
    masks[..., 16:40, 8:48] = 1
    return torch.randn(1, 3, 64, 64, generator=rng), torch.randn(1, shots, 3, 64, 64, generator=rng), masks


@pytest.mark.parametrize(
    "config",
    [
        {"attention_scales": (32,)},
        {"attention_scales": (16, 32)},
        {"attention_scales": (4, 8, 16, 32)},
        {"skip_scales": ()},
        {"skip_scales": (4,)},
        {"skip_scales": (8,)},
        {"skip_scales": (4, 8, 16)},
        {"skip_support": False},
        {"use_background": False},
        {"heads": 1},
        {"support_pixel_budget": 7},
        {"attention": "cosine", "identity_start": True, "position_weight": 0.0},
        {"attention": "cosine", "heads": 1, "class_balanced": True},
        {"class_balanced": True, "skip_scales": ()},
    ],
    ids=str,
)
def test_every_choice_runs_and_trains(config: dict[str, object]) -> None:
    method = model(**config).train()
    logits = method(*episode())
    assert logits.shape == (1, 2, 64, 64)
    logits.square().mean().backward()
    assert all(p.grad is not None for n, p in method.named_parameters() if not n.startswith("backbone."))


@pytest.mark.parametrize(
    "config", [{"use_background": False}, {"support_pixel_budget": 3}, {"heads": 2}, {"position_weight": 0.0}], ids=str
)
@torch.inference_mode()
def test_choices_change_the_result(config: dict[str, object]) -> None:
    plain, changed = model(), model(**config)
    changed.load_state_dict(plain.state_dict())
    assert (plain(*episode()) - changed(*episode())).abs().max() > 1e-5


@torch.inference_mode()
def test_implementations_agree() -> None:
    lean, plain = model(implementation="streaming"), model(implementation="reference")
    plain.load_state_dict(lean.state_dict())
    torch.testing.assert_close(lean(*episode(3)), plain(*episode(3)), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_widths_that_the_heads_do_not_divide() -> None:
    """ConvNeXt-atto has 40, 80, 160, 320 channels; twelve heads divide none of them."""
    assert model("convnext_atto", heads=12)(*episode()).isfinite().all()


@torch.inference_mode()
def test_one_scale_backbones() -> None:
    assert model("vit_tiny_patch16_224")(*episode()).shape == (1, 2, 64, 64)


@torch.inference_mode()
def test_votes_are_means_of_mask_values() -> None:
    method = model()
    query, images, masks = episode()
    votes = method.aggregated_masks(method.encode_query(query), method.encode_support(images, torch.ones_like(masks)))
    for vote in votes:
        torch.testing.assert_close(vote, torch.ones_like(vote), atol=1e-5, rtol=0)


@torch.inference_mode()
def test_balanced_votes_weigh_both_sides_alike() -> None:
    """The same as a softmax in which every token counts as one over the number of its side's tokens."""
    method = model(heads=1, class_balanced=True, position_weight=0.0)
    query, images, masks = episode()
    masks[..., :40, :48] = 1  # a corner, so that even the coarsest maps hold both sides
    features, support = method.encode_query(query), method.encode_support(images, masks)
    for (index, _), vote in zip(method.attended, method.aggregated_masks(features, support), strict=True):
        q, k = features.tensors[f"query.{index}"].flatten(1, 2), support.tensors[f"key.{index}"].flatten(1, 2)
        value = support.tensors[f"value.{index}"].flatten(1, 2)  # resized, so not only 0 and 1
        inside, outside = value / value.sum(), (1 - value) / (1 - value).sum()
        scores = q @ k.mT
        attention = (scores - scores.amax(-1, keepdim=True)).exp()
        ahead, behind = (attention @ inside.mT)[..., 0], (attention @ outside.mT)[..., 0]
        torch.testing.assert_close(vote.flatten(1), ahead / (ahead + behind), atol=2e-4, rtol=1e-3)


@torch.inference_mode()
def test_balanced_votes_of_empty_and_full_masks() -> None:
    method = model(heads=1, class_balanced=True)
    query, images, masks = episode()
    for filled in (torch.zeros_like(masks), torch.ones_like(masks)):
        for vote in method.aggregated_masks(method.encode_query(query), method.encode_support(images, filled)):
            assert ((vote >= 0) & (vote <= 1)).all()
            assert ((vote > 0.5) == bool(filled.any())).all()


def test_impossible_choices_are_named() -> None:
    with pytest.raises(InvalidOption, match="did you mean 'cosine'"):
        model(attention="cosin")
    with pytest.raises(InvalidOption, match="attention_scales"):
        model("vit_tiny_patch16_224", attention_scales=(8, 32))
    with pytest.raises(InvalidOption, match="did you mean 'heads'"):
        model(head=3)
    with pytest.raises(InvalidOption, match="heads 0"):
        model(heads=0)
    with pytest.raises(InvalidOption, match=r"attention_scales has \[7\]"):
        model(attention_scales=(7, 8))
    with pytest.raises(InvalidOption, match="support_pixel_budget -1"):
        model(support_pixel_budget=-1)
    with pytest.raises(InvalidOption, match="did you mean 'streaming'"):
        model(implementation="stream")


def test_position_encoding_formula() -> None:
    encoding = position_encoding(50, 6, torch.device("cpu"), torch.float32)
    assert encoding[7, 4] == pytest.approx(torch.tensor(7 * 10000 ** (-4 / 6)).sin().item(), abs=1e-6)
    assert encoding[7, 5] == pytest.approx(torch.tensor(7 * 10000 ** (-4 / 6)).cos().item(), abs=1e-6)


def test_token_budget() -> None:
    tokens = torch.arange(10.0).view(1, 10, 1)
    values = torch.tensor([[1, 1, 0, 0, 0, 0, 0, 0, 0, 0.0]])
    picked, picked_values = budget_tokens(tokens, values, 4)
    assert picked.flatten().tolist() == [0, 0, 1, 1, 2, 4, 7, 9]
    assert picked_values.flatten().tolist() == [1] * 4 + [0] * 4
    faint, _ = budget_tokens(tokens, values * 0.3, 2)
    assert faint.flatten().tolist()[:2] == [0, 1]


@pytest.mark.parametrize("config", [{}, {"identity_start": True}, {"attention": "cosine"}], ids=str)
def test_projections_start_equal_and_are_two(config: dict[str, object]) -> None:
    """As in the released code; what is equal to begin with is trained apart."""
    method = model("tiny", **config)
    for attention in method.attention.values():
        assert attention.query.keys() == attention.support.keys()
        for width, query in attention.query.items():
            support = attention.support[width]
            assert torch.equal(query.weight, support.weight)
            assert torch.equal(query.bias, support.bias)
            assert query.weight.data_ptr() != support.weight.data_ptr()
