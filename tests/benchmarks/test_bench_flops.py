"""Operations are counted as they are computed."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fewseg import create_method
from fewseg.models.methods.dcama.method import DCAMA
from fewseg_bench.baseline import BaselineDCAMA, baseline_aggregation
from fewseg_bench.flops import attention_flops, convolution_flops, counted_flops, dcama_decoder, needed_flops
from fewseg_bench.models import noise
from fewseg_bench.names import BASELINE, OPTIMISED
from fewseg_bench.variants import prepare_variant
from helpers.bench import CPU


def test_operations_of_attention_and_convolution_by_hand() -> None:
    # 4 queries, 6 keys, 8 channels in 2 heads, one value: 4 * 6 * 8 products for Q K, 2 * 4 * 6 for P V.
    assert attention_flops(4, 6, 8, 2, 1) == 2 * (4 * 6 * 8 + 2 * 4 * 6)
    q, k, v = torch.rand(1, 4, 8), torch.rand(1, 6, 8), torch.rand(1, 6, 1)
    assert counted_flops(lambda: baseline_aggregation(q, k, v, 2)) == attention_flops(4, 6, 8, 2, 1)
    weight, x = torch.rand(5, 3, 3, 3), torch.rand(1, 3, 7, 6)
    expected = 2 * 5 * 3 * 9 * 7 * 6
    assert convolution_flops(weight.shape, (7, 6)) == expected
    assert counted_flops(lambda: torch.conv2d(x, weight, padding=1)) == expected


@pytest.mark.parametrize(
    "options", [{}, {"class_balanced": True, "skip_support": False, "heads": 1}, {"skip_scales": (8,)}]
)
def test_closed_form_is_what_torch_counts(options: dict[str, object]) -> None:
    """The paper's computation as it runs; and what is done once is no more than that."""
    method = create_method("dcama", backbone="resnet18", image_size=64, **options)
    assert isinstance(method, DCAMA)
    query, images, masks = noise(64, 2)
    baseline = BaselineDCAMA(method)
    with torch.inference_mode():
        maps, support = baseline.maps(query), baseline.maps(images[0])
        with FlopCounterMode(display=False) as counter:
            baseline.head(maps, support, masks)
        backbone = counted_flops(lambda: baseline.maps(query))
    sizes = [(m.shape[-2], m.shape[-1]) for m in maps]
    once = needed_flops(method, 2)
    decoder = dcama_decoder(method, sizes)
    projections = once.rest - decoder
    whole = (
        once.attention + 3 * projections + dcama_decoder(method, sizes, as_published=True)
    )  # of one query, two supports
    assert whole == counter.get_total_flops()
    assert backbone == once.backbone
    assert decoder < dcama_decoder(method, sizes, as_published=True)
    assert once.at("op") < once.at("head") < once.at("query")


@pytest.mark.parametrize("name", ["hsnet", "sccan"])
def test_other_methods_are_counted_without_what_only_the_support_needs(name: str) -> None:
    options = {"blocks": 2, "feature_size": 16} if name == "sccan" else {}
    method = create_method(name, backbone="resnet18", image_size=64, **options)
    one, two = needed_flops(method, 1), needed_flops(method, 2)
    assert 0 < one.attention < one.at("head") < one.at("query")
    assert two.backbone == one.backbone
    if name == "hsnet":
        assert two.attention == 2 * one.attention
    else:
        assert two.attention == one.attention  # shots are averaged before the attention


def test_background_of_the_support_is_no_work_for_hsnet() -> None:
    method = create_method("hsnet", backbone="resnet18", image_size=64)
    with torch.inference_mode():
        baseline, optimised = (
            counted_flops(prepare_variant(method, variant, 1, CPU, torch.float32).work["op"])
            for variant in (BASELINE, OPTIMISED)
        )
        head = counted_flops(prepare_variant(method, BASELINE, 1, CPU, torch.float32).work["head"])
    once = needed_flops(method, 1)
    assert once.attention == optimised < baseline
    assert once.at("head") == head - baseline + optimised


def test_zeros_that_pad_a_kernel_are_no_work() -> None:
    # The stem and one block of a stride: their windows are 3 x 3, whatever the kernel is extended by.
    options = {"stem": 8, "thin": 4, "widths": (8, 8), "depths": (1, 1), "strides": (2, 2), "expansions": (2, 2)}
    method = create_method("prototype", backbone="tiny", backbone_options=options, image_size=64, scales=(8,))
    stem, thin = (8, 3, 3, 3), [(8, 1, 3, 3), (4, 8, 1, 1)]
    first = [((8, 4, 1, 1), 32), ((8, 1, 3, 3), 16), ((8, 8, 1, 1), 16)]
    second = [((16, 8, 1, 1), 16), ((16, 1, 3, 3), 8), ((8, 16, 1, 1), 8)]
    wanted = convolution_flops(stem, (32, 32)) + sum(convolution_flops(w, (32, 32)) for w in thin)
    wanted += sum(convolution_flops(weight, (side, side)) for weight, side in [*first, *second])
    assert needed_flops(method, 1).backbone == wanted
