"""SCCAN against the outputs of the authors' released models.

Alignment is discrete: where a query window's two best support windows are within rounding of each other, other hardware
may choose the other one, and logits move by 0.01 to 0.06. None of the recorded episodes is such a case: every query
window of every block finds the support window that the released model found.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from fewseg.checkpoints import load_method, load_official, save_method
from fewseg.errors import InvalidCheckpoint
from fewseg.methods.sccan import SCCAN
from golden_models import golden, inputs, released_state

KEYS = "keys_sccan_resnet50.tsv"


@pytest.fixture(scope="module")
def released() -> dict[str, Tensor]:
    return released_state(KEYS, 1, prefix="")


@pytest.mark.parametrize("name", ["sccan_resnet50_1shot", pytest.param("sccan_resnet50_5shot", marks=pytest.mark.slow)])
@torch.inference_mode()
def test_released_model(name: str) -> None:
    expected, meta = golden(name)
    seed, shots = int(meta["seed"]), int(meta["shots"])
    model = load_official(released_state(KEYS, seed), "sccan", "resnet50")
    assert isinstance(model, SCCAN)
    query, images, masks = inputs(seed, int(meta["size"]), shots)
    seen: dict[str, Tensor] = {}
    for part, module in {"fused": model.transformer, "low": model.head}.items():
        module.register_forward_hook(lambda _module, _inputs, output, part=part: seen.update({part: output}))
    features, support = model.encode_query(query), model.encode_support(images, masks)
    logits = model.segment(features, support)
    assert logits.shape == tuple(expected["logits_shape"])
    np.testing.assert_allclose(model.prior(features, support), expected["prior"], atol=1e-4)
    np.testing.assert_allclose(seen["fused"].mean((1, 2)), expected["fused_mean"], atol=2e-5)
    np.testing.assert_allclose(seen["low"], expected["logits_low"], atol=2e-5)
    np.testing.assert_allclose(logits[..., ::8, ::8], expected["logits_sub"], atol=2e-5)
    np.testing.assert_allclose(logits.mean(), expected["logits_mean"], atol=2e-5)


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
