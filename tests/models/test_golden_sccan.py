"""SCCAN against the outputs of the authors' released models.

Alignment is discrete. In both recorded episodes some query window has two support windows whose similarities differ by
no more than rounding (8e-7 and 3e-8). Which of them wins depends on the order in which a machine adds. A machine that
chooses the other one must agree with the recording once the choice at such ties is turned; the tests also show what the
other choice comes to.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidCheckpoint
from fewseg.models.checkpoints import load_method, load_official, save_method
from fewseg.models.methods.sccan.method import SCCAN
from fewseg.models.ops.resize import resize
from fewseg.models.ops.window_attention import align
from helpers.golden_models import golden, inputs, released_state

KEYS = "keys_sccan_resnet50.tsv"

NEAR = 2e-6
"""Similarities that are nearer to each other than this count as a tie: what precedes them is rounded too."""


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    return released_state(KEYS, 1, prefix="")


class Alignment:
    """`align` that notes near ties, as (call, window), and takes the runner-up at those in `turned`."""

    def __init__(self, turned: frozenset[tuple[int, int]] = frozenset()) -> None:
        self.turned, self.calls = turned, 0
        self.ties: list[tuple[int, int]] = []

    def __call__(self, query: Tensor, support: Tensor, foreground: Tensor) -> Tensor:
        chosen = align(query, support, foreground)
        cosines = F.normalize(query[0].double(), dim=-1) @ F.normalize(support[0].double(), dim=-1).T
        best = ((cosines + 1) / 2 * foreground[0]).topk(2, -1)
        for window in (best.values[:, 0] - best.values[:, 1] < NEAR).nonzero().flatten().tolist():
            self.ties.append((self.calls, window))
            if self.ties[-1] in self.turned:
                first, second = best.indices[window].tolist()
                chosen[0, window] = second if chosen[0, window] == first else first
        self.calls += 1
        return chosen


def turnings(ties: list[tuple[int, int]]) -> Iterator[frozenset[tuple[int, int]]]:
    """Each tie alone, every two, ..."""
    for count in range(1, len(ties) + 1):
        yield from map(frozenset, combinations(ties, count))


@pytest.mark.parametrize("name", ["sccan_resnet50_1shot", pytest.param("sccan_resnet50_5shot", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_released_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, meta = golden(name)
    seed, shots = int(meta["seed"]), int(meta["shots"])
    model = load_official(released_state(KEYS, seed), "sccan", "resnet50")
    assert isinstance(model, SCCAN)
    query, images, masks = inputs(seed, int(meta["size"]), shots)
    features, support = model.encode_query(query), model.encode_support(images, masks)
    prior = model.prior(features, support)
    np.testing.assert_allclose(prior, expected["prior"], atol=1e-4)
    monkeypatch.setattr(model, "prior", lambda *_: prior)  # the same whatever the alignment, and a third of the time

    def low_logits(alignment: Alignment) -> tuple[Tensor, Tensor]:
        monkeypatch.setattr("fewseg.models.methods.sccan.blocks.align", alignment)
        fused = model.fuse(features, support)
        return fused.mean((2, 3)), model.head(F.relu(fused))

    alignment = Alignment()
    fused_mean, low = low_logits(alignment)
    for turned in turnings(alignment.ties):
        if (low - torch.from_numpy(expected["logits_low"])).abs().max() < 1e-3:
            break
        alignment = Alignment(turned)
        fused_mean, low = low_logits(alignment)
    np.testing.assert_allclose(fused_mean, expected["fused_mean"], atol=2e-5)
    np.testing.assert_allclose(low, expected["logits_low"], atol=2e-5)
    logits = resize(low, features.image_size)
    assert logits.shape == tuple(expected["logits_shape"])
    np.testing.assert_allclose(logits[..., ::8, ::8], expected["logits_sub"], atol=2e-5)
    np.testing.assert_allclose(logits.mean(), expected["logits_mean"], atol=2e-5)
    other = low_logits(Alignment(alignment.turned ^ {alignment.ties[0]}))[1]
    assert 1e-3 < (other - low).abs().max() < 0.1  # the window's neighbourhood, by dilated convolutions all over
    assert (other - low).abs().mean() < 5e-3


def test_a_released_file_is_read_saved_and_read(released: dict[str, Tensor], tmp_path) -> None:
    """With the prefix, beside what training left in the file; then as a checkpoint of ours."""
    state = {f"module.{name}": value for name, value in released.items()}
    beside = {"epoch": 199, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.005}]}}
    torch.save({"state_dict": state, **beside}, tmp_path / "release.pth")
    model = load_official(tmp_path / "release.pth", method="sccan", backbone="resnet50")
    save_method(model, tmp_path / "ours.safetensors")
    again = load_method(tmp_path / "ours.safetensors")
    assert again.backbone.name == "resnet50_deep_dilated"
    for name, theirs in {
        "backbone.net.conv1.3.weight": "backbone.body.conv2.weight",
        "backbone.net.bn1.running_var": "backbone.body.bn3.running_var",
        "transformer.blocks.6.support.mlp.2.bias": "transformer.layers.0.blocks.6.mlp_s.fc2.bias",
        "head.branches.4.weight": "ASPP_meta.layer6_4.0.weight",
    }.items():
        assert torch.equal(again.state_dict()[name], state[f"module.{theirs}"])


def test_resnet101(released: dict[str, Tensor]) -> None:
    """The release's names, made from those of ResNet-50: 17 more blocks in the third stage."""
    state = dict(released)
    last = "backbone.body.layer3.5."
    for key, value in [(k, v) for k, v in state.items() if k.startswith(last)]:
        state |= {key.replace(last, f"backbone.body.layer3.{block}."): value + block for block in range(6, 23)}
    model = load_official(state, "sccan", "resnet101")
    bias = state["backbone.body.layer3.22.bn3.bias"]
    assert torch.equal(model.state_dict()["backbone.net.layer3.22.bn3.bias"], bias)
    assert [block.stride for block in model.backbone.blocks] == [4, 8, 8, 8]
    with pytest.raises(InvalidCheckpoint, match=r"sccan over resnet50.*has unknown backbone\.net\.layer3\.6"):
        load_official(state, "sccan", "resnet50")


def test_missing_and_unknown_names_are_named(released: dict[str, Tensor]) -> None:
    state = dict(released)
    bias = state.pop("transformer.norm0.bias")
    with pytest.raises(InvalidCheckpoint, match=r"lacks transformer\.norm\.bias"):
        load_official(state, "sccan")
    with pytest.raises(InvalidCheckpoint, match=r"unknown cls_meta_2"):
        load_official({**state, "transformer.norm0.bias": bias, "cls_meta_2": bias}, "sccan")
