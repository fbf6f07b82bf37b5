"""DCAMA against the outputs of the authors' released models."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fewseg.core.errors import FewsegError, InvalidCheckpoint, InvalidOption
from fewseg.models.checkpoints import load_official
from fewseg.models.checkpoints.released_order import dcama_names
from fewseg.models.methods.dcama.method import DCAMA
from helpers.golden_models import golden, inputs, released_state

CASES = [("dcama_resnet50_1shot", "resnet50"), ("dcama_resnet50_5shot", "resnet50"), ("dcama_swin_b_1shot", "swin_b")]


@pytest.mark.parametrize(("name", "backbone"), CASES)
def test_released_model(name: str, backbone: str) -> None:
    expected, meta = golden(name)
    seed, stride = int(meta["seed"]), int(meta["logits_stride"])
    model = load_official(released_state(f"keys_dcama_{backbone}.tsv", seed), "dcama", backbone)
    assert isinstance(model, DCAMA)
    query, images, masks = inputs(seed, int(meta["size"]), int(meta["shots"]))
    with torch.inference_mode():
        maps = model.backbone(query)
        support, features = model.encode_support(images, masks), model.encode_query(query)
        votes = model.aggregated_masks(features, support)
        logits = model.segment(features, support)
        direct = model(query, images, masks)
    np.testing.assert_allclose([m.mean() for m in maps], expected["feature_mean"], atol=2e-5)
    np.testing.assert_allclose([m.std() for m in maps], expected["feature_std"], atol=2e-5)
    np.testing.assert_allclose([v.mean() for v in votes], expected["votes"], atol=2e-5)
    np.testing.assert_allclose(votes[0].flatten(1), expected["votes_first"], atol=2e-5)
    np.testing.assert_allclose(votes[-1].flatten(1), expected["votes_last"], atol=2e-5)
    np.testing.assert_allclose(logits[..., ::stride, ::stride], expected["logits"], atol=2e-5)
    torch.testing.assert_close(direct, logits, atol=1e-5, rtol=0)


def test_file_without_prefix_is_read(tmp_path) -> None:
    state = released_state("keys_dcama_resnet50.tsv", 1, prefix="")
    torch.save(state, tmp_path / "release.pt")
    model = load_official(tmp_path / "release.pt", method="dcama", backbone="resnet50")
    assert torch.equal(model.state_dict()["decoder.mixer3.2.weight"], state["model.mixer3.2.weight"])


def test_wrong_backbone_is_named() -> None:
    with pytest.raises(InvalidCheckpoint, match=r"resnet101.*lacks"):
        load_official(released_state("keys_dcama_resnet50.tsv", 1), "dcama", "resnet101")


def test_missing_and_unknown_names_are_named() -> None:
    state = released_state("keys_dcama_resnet50.tsv", 1)
    bias = state.pop("module.model.conv1.0.bias")
    with pytest.raises(InvalidCheckpoint, match=r"lacks decoder\.vote\.32\.0\.bias"):
        load_official(state)
    state |= {"module.model.conv1.0.bias": bias, "module.model.surprise": bias}
    with pytest.raises(InvalidCheckpoint, match=r"unknown model\.surprise"):
        load_official(state)


def test_no_code_is_unpickled(tmp_path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    torch.save({"module.model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(InvalidCheckpoint, match=r"evil\.pt holds more than tensors"):
        load_official(tmp_path / "evil.pt")


@pytest.mark.parametrize(("method", "backbone"), [("dcma", "resnet50"), ("dcama", "resnet51")])
def test_unknown_names_get_suggestions(method: str, backbone: str) -> None:
    with pytest.raises(InvalidOption, match="did you mean"):
        load_official({}, method, backbone)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_broken_files_are_named(tmp_path, content: bytes) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(FewsegError, match=r"broken\.pt"):
        load_official(path)


@pytest.mark.parametrize("backbone", ["resnet50", "swin_b"])
def test_names_in_the_order_of_the_release(backbone: str) -> None:
    state = released_state(f"keys_dcama_{backbone}.tsv", 1, prefix="")
    assert dcama_names(backbone) == [*state]


def test_other_names_are_read_by_order_where_that_is_allowed() -> None:
    named = released_state("keys_dcama_resnet50.tsv", 1, prefix="")
    state = {f"tensor{number}": value for number, value in enumerate(named.values())}
    with pytest.raises(InvalidCheckpoint, match=r"by other names; allow_order=True reads them by their order"):
        load_official(state)
    own, expected = load_official(state, allow_order=True).state_dict(), load_official(named).state_dict()
    assert all(torch.equal(own[key], value) for key, value in expected.items())
    # By name where the names are there, whatever the order.
    turned = load_official(dict(reversed(named.items())), allow_order=True).state_dict()
    assert all(torch.equal(turned[key], value) for key, value in expected.items())
    swapped = {**state, "tensor0": state["tensor1"], "tensor1": state["tensor0"]}
    with pytest.raises(InvalidCheckpoint, match=r"other shapes for backbone\.net\.conv1\.weight"):
        load_official(swapped, allow_order=True)
    with pytest.raises(InvalidCheckpoint, match=r"has 406 tensors, the release 407"):
        load_official({k: v for k, v in state.items() if k != "tensor5"}, allow_order=True)
    with pytest.raises(InvalidOption, match="allow_order is for files of dcama"):
        load_official({}, "hsnet", allow_order=True)
