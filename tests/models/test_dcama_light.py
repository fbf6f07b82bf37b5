"""DCAMA with the light decoder: against a plain implementation, over labels and shots."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidCheckpoint, InvalidOption
from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.checkpoints import load_method, save_method
from fewseg.models.methods.dcama_light.calibration import near_foreground, scale_logits
from fewseg.models.methods.dcama_light.decoder import FIRST_GAINS, LightDecoder
from fewseg.models.methods.dcama_light.prototypes import centred_similarity, foreground_prototypes
from fewseg.models.methods.dcama_light.refinement import query_similarity
from fewseg_bench.baseline_light import baseline_dcama
from fewseg_bench.flops import needed_flops
from helpers.dcama_light import light


def episode(shots: int, size: tuple[int, int], seed: int = 1, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    masks = (torch.rand(batch, shots, *size) > 0.6).long()
    return torch.randn(batch, 3, *size), torch.randn(batch, shots, 3, *size), masks


@pytest.mark.parametrize("seed", range(8))
@torch.inference_mode()
def test_equals_the_plain_implementation(seed: int) -> None:
    rng = random.Random(seed)
    scales = rng.choice([(8, 16, 32), (16, 32), (16,)])
    skips = rng.choice([(4, 8, 16), (4, 8), (8, 16)])
    method = light(
        seed, attention_scales=scales, skip_scales=skips, refinement_steps=seed % 3, boundary_refinement=seed % 2 == 0
    )
    inputs = episode(rng.randint(1, 4), (rng.randint(40, 90), rng.randint(40, 90)), seed, rng.randint(1, 3))
    torch.testing.assert_close(method(*inputs), baseline_dcama(method)(*inputs), atol=2e-4, rtol=1e-4)


@torch.inference_mode()
def test_labels_at_once_give_what_each_gives_alone() -> None:
    method = light(refinement_steps=2, boundary_refinement=True)
    query, images, masks = episode(2, (64, 64), batch=1)
    supports = [method.encode_support(images, masks), method.encode_support(images, 1 - masks)]
    supports += [method.encode_support(*episode(1, (64, 64), seed, 1)[1:]) for seed in (5, 6)]
    query = torch.cat([query, query.flip(-1)])
    together = method.segment_labels(query, supports)
    alone = torch.stack([method.segment(query, support) for support in supports], 1)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_shots_join_and_the_same_shot_again_changes_nothing() -> None:
    method = light()
    query, images, masks = episode(3, (64, 64), batch=1)
    whole = method.encode_support(images, masks)
    single = [method.encode_support(images[:, i : i + 1], masks[:, i : i + 1]) for i in range(3)]
    torch.testing.assert_close(method.segment(query, SupportSet.concatenate(single)), method.segment(query, whole))
    once, thrice = single[0], SupportSet.concatenate([single[0]] * 3)
    torch.testing.assert_close(method.segment(query, thrice), method.segment(query, once), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_untrained_it_ranks_what_looks_like_the_support_first() -> None:
    method = light()
    decoder = method.decoder
    for parameter in decoder.correction.parameters():
        parameter.zero_()
    decoder.gain.copy_(LightDecoder({s: len(p) for s, p in method.places.items()}, {4: 8, 8: 8}).gain)
    assert decoder.gain.sum() == pytest.approx(sum(FIRST_GAINS))
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, 16:48, 16:48] = 2
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, 16:48, 16:48] = 1
    logits = method(image, image.unsqueeze(1), mask)
    ahead = (logits[:, 1] - logits[:, 0])[0]
    assert ahead[24:40, 24:40].min() > torch.cat([ahead[:4].flatten(), ahead[-4:].flatten()]).max()


def test_the_temperature_moves_probabilities_and_no_mask() -> None:
    method = light()
    method.calibration.logit_offset.zero_()
    inputs = episode(2, (64, 64))
    odds = []
    with torch.inference_mode():
        for temperature in ([[0.0, 0.0], [0.0, 0.0]], [[0.4, 0.2], [-0.5, -0.1]]):
            method.calibration.temperature.copy_(torch.tensor(temperature))
            query, support = method.encode_query(inputs[0]), method.encode_support(*inputs[1:])
            # At the size that the decoder works at in the end.
            logits = method.segment(QueryFeatures((16, 16), query.tensors), support)
            odds.append(logits[:, 1] - logits[:, 0])
            if not any(map(any, temperature)):
                similarity = method.foreground_similarity(query, support, logits)
    plain, weighed = odds
    assert (plain > 0).any()
    assert (plain < 0).any()
    assert torch.equal(plain > 0, weighed > 0)
    near = F.max_pool2d(plain.sigmoid(), 5, 1, 2)
    similarity = similarity[:, None, None]
    wanted = plain * torch.exp((0.4 + 0.2 * similarity) * (1 - near) + (-0.5 - 0.1 * similarity) * near)
    torch.testing.assert_close(weighed, wanted, atol=1e-5, rtol=1e-4)


def test_resizing_leaves_boundaries_where_they_were() -> None:
    torch.manual_seed(0)
    logit = 6 * F.interpolate(torch.randn(1, 1, 6, 6), (48, 48), mode="bicubic")
    temperature = torch.tensor([[0.0, 0.0], [-2.0, 0.0]])
    weaker = scale_logits(logit, near_foreground(logit), torch.zeros(1), temperature)
    before, after = (F.interpolate(x, (200, 200), mode="bilinear", align_corners=True) > 0 for x in (logit, weaker))
    assert before.float().mean() > 0.2
    assert (before != after).float().mean() < 0.001
    assert weaker.max() < 0.2 * logit.max()


def test_similarities_that_nothing_was_fitted_to_leave_finite_logits_of_their_sign() -> None:
    logit = torch.tensor([-2.0, 0.0, 2.0]).view(1, 1, 1, 3)
    steep = torch.tensor([[-1.5, 0.6], [-150.0, 50.0]])
    for similarity in (-6.0, 5.0, 6.0):
        weighed = scale_logits(logit, torch.ones_like(logit), torch.tensor([similarity]), steep)
        assert torch.equal(weighed.sign(), logit.sign())
        assert weighed.isfinite().all()


def test_weights_learn_without_the_calibration() -> None:
    method = light()
    inputs = episode(2, (64, 64))
    with torch.inference_mode():
        weighed, plain = method.eval()(*inputs), method.train()(*inputs)
        method.reset_calibration()
        torch.testing.assert_close(method.eval()(*inputs), plain)
    assert not torch.allclose(weighed, plain)


def test_what_is_unlike_the_support_has_a_lower_similarity() -> None:
    method = light()
    method.calibration.base_prototype.zero_()
    image = torch.zeros(1, 3, 64, 64)
    image[:, 0, 32:, :32] = 2
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, 32:, :32] = 1
    with torch.inference_mode():
        query, support = method.encode_query(image), method.encode_support(image.unsqueeze(1), mask)
        inside = torch.stack([-mask[:, 0], mask[:, 0]], 1) * 9 - torch.tensor([[[[-4.5]], [[4.5]]]])
        right, wrong = (method.foreground_similarity(query, support, logits) for logits in (inside, -inside))
        assert right > wrong
        # Where the example's object is what all objects are, to be similar to it says little.
        shown = torch.cat(
            [mean.flatten() for s in (8, 16, 32) for mean in foreground_prototypes([support], method.places)[s]]
        )
        method.calibration.base_prototype.copy_(shown)
        assert method.foreground_similarity(query, support, inside) < right - 1


def test_what_is_like_neither_side_is_unlike_the_object() -> None:
    widths = {16: (12, 12), 32: (16,)}
    first, second = ({s: [torch.eye(w)[k] for w in ws] for s, ws in widths.items()} for k in (0, 1))
    tokens = {
        s: [torch.stack([a, b]).view(1, 1, 2, -1) for a, b in zip(first[s], second[s], strict=True)] for s in widths
    }
    shown = {s: [thing.view(1, 1, -1) for thing in first[s]] for s in widths}
    none = {s: [torch.zeros(w) for w in ws] for s, ws in widths.items()}
    for scale, found in centred_similarity(tokens, shown, none).items():
        assert found.shape == (1, len(widths[scale]), 1, 2, 1)
        assert found[0, :, 0, :, 0].unique(dim=0).tolist() == [[10.0, 0.0]]
    for found in centred_similarity(tokens, shown, first).values():  # all objects are like that
        assert found[0, :, 0, :, 0].unique(dim=0).tolist() == [[0.0, -5.0]]


def test_prototypes_are_made_of_all_tokens_whatever_is_left_for_attention() -> None:
    _, images, masks = episode(2, (64, 64))
    plain, fewer = (
        foreground_prototypes([method.encode_support(images, masks)], method.places, 2)
        for method in (light(), light(support_pixel_budget=3))
    )
    for scale, prototypes in plain.items():
        for own, cut in zip(prototypes, fewer[scale], strict=True):
            torch.testing.assert_close(cut, own)


@torch.inference_mode()
def test_a_faint_prediction_has_the_similarity_of_a_clear_one() -> None:
    method = light()
    query, images, masks = episode(1, (64, 64))
    seen, support = method.encode_query(query), method.encode_support(images, masks)
    logit = torch.randn(2, 1, 64, 64) / 10
    clear, faint = (
        method.foreground_similarity(seen, support, torch.cat([-logit - x, logit + x], 1) / 2) for x in (-6, -14)
    )
    torch.testing.assert_close(faint, clear, atol=0.02, rtol=0)


def test_checkpoints_from_before_say_what_they_lack(tmp_path: Path) -> None:
    method = light()
    state = method.state_dict()
    method.state_dict = lambda: {k: v for k, v in state.items() if k != "calibration.base_prototype"}  # type: ignore[method-assign]
    save_method(method, tmp_path / "old.safetensors")
    with pytest.raises(InvalidCheckpoint, match=r"Missing key.*calibration.base_prototype.*train it again") as error:
        load_method(tmp_path / "old.safetensors")
    assert "\n" not in str(error.value)


@torch.inference_mode()
def test_refinement_steps_begin_by_changing_nothing() -> None:
    inputs = episode(2, (64, 64))
    first = light()
    second = light(refinement_steps=2)
    assert second.decoder.refinement is not None
    for parameter in second.decoder.refinement.correction.parameters():
        parameter.zero_()
    missing, unexpected = second.load_state_dict(first.state_dict(), strict=False)
    assert {name.split(".")[1] for name in missing} == {"refinement"}
    assert unexpected == []
    torch.testing.assert_close(second(*inputs), first(*inputs))


def test_parts_like_the_predicted_foreground_are_closer_to_it() -> None:
    torch.manual_seed(0)
    thing, rest = F.normalize(torch.randn(2, 16), dim=-1)
    tokens = rest.repeat(1, 8, 8, 1)
    tokens[:, 2:6, 2:6] = thing
    logit = torch.full((1, 1, 32, 32), -4.0)
    logit[..., 8:16, 8:16] = 4  # a quarter of the thing
    own = query_similarity(logit, [tokens], 1)
    assert own.shape == (1, 1, 8, 8)
    assert own[0, 0, 2:6, 2:6].min() > 0 > own[0, 0, 7].max()


def test_everything_in_it_learns() -> None:
    method = light(refinement_steps=2).train()
    method(*episode(1, (64, 64))).square().mean().backward()
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


def test_operations_are_counted() -> None:
    flops = needed_flops(light(), shots=1)
    assert 0 < flops.at("op") < flops.at("head") < flops.at("query")


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"skip_scales": (4,)}, "two skip scales"),
        ({"refinement_steps": -1}, "at least 0"),
        ({"refinement_steps": 2.5}, "at least 0"),
        ({"refinement_steps": "3"}, "at least 0"),
        ({"use_background": False}, "use_background"),
    ],
)
def test_what_it_cannot_do_without(change: dict[str, object], remedy: str) -> None:
    with pytest.raises(InvalidOption, match=remedy):
        light(**change)
