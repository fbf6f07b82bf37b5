"""The baseline implementation computes what fewseg's does, without its optimisations."""

from __future__ import annotations

import math

import pytest
import torch

from fewseg import create_method
from fewseg.core.errors import InvalidOption
from fewseg.models.methods.dcama.method import DCAMA
from fewseg_bench import training
from fewseg_bench.baseline import BaselineDCAMA
from fewseg_bench.models import noise
from fewseg_bench.names import BASELINE, OPTIMISED
from fewseg_bench.variants import prepare_variant
from helpers.bench import CPU


@pytest.mark.parametrize(
    ("name", "backbone", "options"),
    [
        ("dcama", "tiny", {}),
        ("dcama", "tiny", {"attention": "cosine", "class_balanced": True, "heads": 1, "position_weight": 0.0}),
        ("dcama", "resnet18", {"skip_scales": (8,), "skip_support": False}),
        ("hsnet", "resnet18", {}),
        ("sccan", "resnet18", {"blocks": 2, "feature_size": 16}),
    ],
)
def test_both_variants_give_the_same(name: str, backbone: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    method = create_method(name, backbone=backbone, image_size=64, **options)
    baseline, optimised = (
        prepare_variant(method, variant, 2, CPU, torch.float32).work for variant in (BASELINE, OPTIMISED)
    )
    with torch.inference_mode():
        for level in ("op", "head", "query"):
            a, b = baseline[level](), optimised[level]()
            assert a.std() > 0
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(a.abs().max()), msg=f"{name}, {level}")


def test_the_baseline_keeps_nothing_and_folds_nothing() -> None:
    method = create_method("dcama", backbone="resnet18", image_size=64)
    assert isinstance(method, DCAMA)
    baseline = BaselineDCAMA(method)
    norms = [m for m in baseline.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    ran = []
    for norm in norms:
        norm.register_forward_hook(lambda *_: ran.append(1))
    query, images, masks = noise(64, 1)
    baseline(query, images, masks)
    assert len(ran) == 2 * len(norms)  # once for the query, once for the support, none folded away
    baseline(query, images, masks)
    assert len(ran) == 4 * len(norms)


def test_the_baseline_has_gradients_and_dropout_in_training() -> None:
    method = create_method("dcama", backbone="tiny", image_size=64)
    assert isinstance(method, DCAMA)
    baseline = BaselineDCAMA(method)
    weights = baseline.trainable()
    inputs = noise(64, 1)
    baseline(*inputs).square().mean().backward()
    assert all(weight.grad is not None for weight in weights)
    assert not torch.equal(baseline(*inputs), baseline(*inputs))


def test_budgets_are_refused_by_the_baseline() -> None:
    method = create_method("dcama", backbone="tiny", image_size=64, support_pixel_budget=8)
    with pytest.raises(InvalidOption, match="support_pixel_budget"):
        BaselineDCAMA(method)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "options"), [("dcama", {}), ("sccan", {"blocks": 2, "feature_size": 16})])
def test_every_variant_of_training_learns(name: str, options: dict[str, object]) -> None:
    method = create_method(name, backbone="tiny", image_size=64, **options)
    for variant in training.TRAINING_VARIANTS:
        step, _ = training.make_step(method, variant, 2, 1, CPU)
        losses = [float(step()) for _ in range(2)]
        assert all(math.isfinite(loss) for loss in losses)
        assert losses[0] == pytest.approx(math.log(2), abs=0.4)
        assert len(set(losses)) == 2
