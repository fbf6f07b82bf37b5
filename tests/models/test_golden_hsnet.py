"""HSNet against the outputs of the authors' released models."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from fewseg.core.errors import InvalidCheckpoint
from fewseg.models.checkpoints import load_official
from helpers.golden_models import golden, inputs, released_state

KEYS = "keys_hsnet_resnet50.tsv"


@pytest.mark.parametrize("name", ["hsnet_resnet50_1shot", "hsnet_resnet50_400"])
def test_released_model(name: str) -> None:
    expected, meta = golden(name)
    seed, stride = int(meta["seed"]), int(meta["logits_stride"])
    model = load_official(released_state(KEYS, seed), "hsnet", "resnet50")
    query, images, masks = inputs(seed, int(meta["size"]), int(meta["shots"]))
    with torch.inference_mode():
        logits = model(query, images, masks)
    np.testing.assert_allclose(logits[..., ::stride, ::stride], expected["logits"], atol=2e-5)


def test_file_without_prefix_is_read(tmp_path) -> None:
    state = released_state(KEYS, 1, prefix="")
    torch.save(state, tmp_path / "release.pt")
    own = load_official(tmp_path / "release.pt", method="hsnet", backbone="resnet50").state_dict()
    for ours, theirs in {
        "squeeze.8.0.query.weight": "encoder_layer2.0.conv1.weight",
        "squeeze.32.1.support.bias": "encoder_layer4.3.conv2.bias",
        "squeeze.16.2.norm.weight": "encoder_layer3.7.weight",
        "mix.16.1.support.weight": "encoder_layer4to3.3.conv2.weight",
        "mix.8.2.norm.bias": "encoder_layer3to2.7.bias",
        "decoder1.2.weight": "decoder1.2.weight",
        "decoder2.0.bias": "decoder2.0.bias",
    }.items():
        assert torch.equal(own[ours], state[f"hpn_learner.{theirs}"]), ours


def resnet101_state() -> dict[str, Tensor]:
    """The names and shapes of the ResNet-101 release: 23 blocks in stage 3 instead of 6."""
    state = {}
    for name, value in released_state(KEYS, 1).items():
        if re.search(r"encoder_layer3\.0\.conv.\.weight", name):
            value = value.repeat_interleave(4, 1)[:, :23]
        state[name] = value
        if ".layer3.5." in name:
            state |= {name.replace(".layer3.5.", f".layer3.{block}."): value for block in range(6, 23)}
    return state


def test_resnet101_release_is_read() -> None:
    model = load_official(resnet101_state(), "hsnet", "resnet101")
    assert model.state_dict()["squeeze.16.0.support.weight"].shape == (16, 23, 5, 5)
    with torch.inference_mode():
        assert model(*inputs(1, 64, 1)).isfinite().all()


def test_misfits_are_named() -> None:
    state = released_state(KEYS, 1)
    with pytest.raises(InvalidCheckpoint, match=r"hsnet over resnet101.*lacks"):
        load_official(state, "hsnet", "resnet101")
    bias = state.pop("module.hpn_learner.encoder_layer3to2.4.bias")
    with pytest.raises(InvalidCheckpoint, match=r"lacks mix\.8\.1\.norm\.bias"):
        load_official(state, "hsnet")
    state |= {"module.hpn_learner.encoder_layer3to2.4.bias": bias, "module.hpn_learner.surprise": bias}
    with pytest.raises(InvalidCheckpoint, match=r"unknown surprise"):
        load_official(state, "hsnet")


def test_files_without_support_masking_are_asked_for(caplog) -> None:
    """The release's ResNet-101 files with and without have the same names: one cannot tell."""
    state = resnet101_state()
    load_official(released_state(KEYS, 1), "hsnet", "resnet50")
    load_official(state, "hsnet", "resnet101", support_masking=True)
    assert not load_official(state, "hsnet", "resnet101", support_masking=False).config.support_masking
    assert not caplog.messages
    assert load_official(state, "hsnet", "resnet101").config.support_masking
    (said,) = caplog.messages
    assert "support_masking=False" in said
