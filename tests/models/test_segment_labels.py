"""Several labels at once give what each gives alone, whatever they share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg import Segmenter
from fewseg.core.errors import InvalidSupport
from fewseg.core.types import SupportSet
from fewseg.models.methods import create_method
from fewseg.models.methods.dcama import aggregation as aggregation_module
from fewseg.models.methods.dcama.decoder import resize_routes
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.models.methods.shared_images import same_images
from fewseg.models.ops.resize import map_size, resize


def model(**config: object) -> DCAMA:
    torch.manual_seed(0)
    method = create_method("dcama", backbone="tiny", image_size=64, **config)
    assert isinstance(method, DCAMA)
    return method


def labels(method: DCAMA, batch: int = 1) -> list[SupportSet]:
    """Five: the first, third and fifth on the same two images, the second and fourth on others."""
    rng = torch.Generator().manual_seed(1)
    images = [torch.randn(batch, 2, 3, 64, 64, generator=rng) for _ in range(3)]
    masks = (torch.rand(5, batch, 2, 64, 64, generator=rng) > 0.6).float()
    return [method.encode_support(images[p].clone(), m) for p, m in zip((0, 1, 0, 2, 0), masks, strict=True)]


CONFIGS: list[dict[str, object]] = [
    {},
    {"attention": "cosine", "class_balanced": True},
    {"use_background": False},
    {"support_pixel_budget": 5},
    {"skip_support": False},
    {"skip_scales": ()},
    {"skip_scales": (4, 16)},
    {"skip_scales": (16,), "class_balanced": True},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@torch.inference_mode()
def test_labels_together_are_as_alone(config: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    method = model(**config)
    supports = labels(method)
    query = method.encode_query(torch.randn(2, 3, 64, 64))
    alone = torch.stack([method.segment(query, support) for support in supports], 1)
    for at_once in (1, 4, 64):
        monkeypatch.setattr(aggregation_module, "LABELS_AT_ONCE", at_once)
        monkeypatch.setattr(aggregation_module, "DECODED_ON_CPU", at_once)
        torch.testing.assert_close(method.segment_labels(query, supports), alone, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_each_query_may_have_its_own_support(monkeypatch: pytest.MonkeyPatch) -> None:
    method = model()
    own, common = labels(method, batch=2), labels(method)[1]
    query = torch.randn(2, 3, 64, 64)
    together = method.segment_labels(query, [*own, common])
    for one, support in zip(together.unbind(1), [*own, common], strict=True):
        torch.testing.assert_close(one, method.segment(query, support), atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_keys_of_the_same_images_are_attended_to_once(monkeypatch: pytest.MonkeyPatch) -> None:
    method = model()
    supports = labels(method)
    assert same_images(supports, "key.") == [[0, 2, 4], [1], [3]]
    columns: list[int] = []
    aggregate = aggregation_module.aggregate_masks

    def counted(query: Tensor, key: Tensor, values: Tensor, **options: object) -> Tensor:
        columns.append(values.shape[-1])
        return aggregate(query, key, values, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(aggregation_module, "aggregate_masks", counted)
    method.segment_labels(torch.randn(1, 3, 64, 64), supports)
    assert sorted(columns) == sorted([3, 1, 1] * len(method.attended))


@torch.inference_mode()
def test_images_that_differ_in_one_value_are_not_the_same() -> None:
    """Also where the first glance sees no difference; another order of the shots is another set."""
    method = model()
    first, _, same, *_ = labels(method)
    name = sorted(first.tensors)[0]
    changed = {k: t.clone() for k, t in same.tensors.items()}
    changed[name].view(-1)[1] += 1e-3
    other = SupportSet(same.method, same.image_size, changed, same.encoder)
    assert same_images([first, same, other], "key.") == [[0, 1], [2]]
    assert same_images([first, same.select([1, 0])], "key.") == [[0], [1]]
    assert same_images([first.to(dtype=torch.bfloat16), first], "key.") == [[0], [1]]


@pytest.mark.parametrize("name", ["hsnet", "sccan", "prototype"])
@torch.inference_mode()
def test_other_methods_go_label_by_label(name: str) -> None:
    torch.manual_seed(0)
    method = create_method(name, backbone="tiny", image_size=64)
    masks = torch.zeros(2, 1, 1, 64, 64)
    masks[0, ..., :32], masks[1, ..., 20:50] = 1, 1
    supports = [method.encode_support(torch.randn(1, 1, 3, 64, 64), m) for m in masks]
    query = method.encode_query(torch.randn(2, 3, 64, 64))
    together = method.segment_labels(query, supports)
    assert torch.equal(together, torch.stack([method.segment(query, s) for s in supports], 1))
    with pytest.raises(InvalidSupport, match="no support sets"):
        method.segment_labels(query, [])


def test_gradients_reach_through_all_labels() -> None:
    method = model()
    method.segment_labels(torch.randn(1, 3, 64, 64), labels(method)).square().mean().backward()
    assert all(p.grad is not None for n, p in method.named_parameters() if not n.startswith("backbone."))


SIZES = [
    [(8, 8), (8, 8), (16, 16)],
    [(4, 4), (8, 8), (16, 16)],
    [(8, 8), (4, 4), (8, 8), (16, 16)],
    [(8, 8), (2, 2), (4, 4)],
    [(9, 7), (18, 14)],
    [(16, 16), (16, 16)],
    [(8, 8)],
]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("mix", [(16, 16), (20, 18)], ids=str)
def test_routes_are_those_of_a_growing_stack(sizes: list[tuple[int, int]], mix: tuple[int, int]) -> None:
    """Against the stack itself: what comes is joined at the finer of the two sizes, and all is resized at the end."""
    maps = [torch.randn(1, 1, *size) for size in sizes]
    stack = maps[0]
    for skip in maps[1:]:
        if skip.shape[-1] >= stack.shape[-1]:
            stack = torch.cat([resize(stack, map_size(skip)), skip], 1)
        else:
            stack = torch.cat([stack, resize(skip, map_size(stack))], 1)
    ours = []
    for x, route in zip(maps, resize_routes(sizes, mix), strict=True):
        for size in route:
            x = resize(x, size)
        ours.append(x)
    torch.testing.assert_close(torch.cat(ours, 1), resize(stack, mix))


@torch.inference_mode()
def test_decoder_is_one_convolution_over_the_whole_stack() -> None:
    """mixer1's inputs in the released order: masks, then (query, support) of every skip scale, coarse to fine."""
    method = model(skip_scales=(4, 8))
    decoder = method.decoder
    maps = {8: torch.randn(1, 32, 8, 8), 4: torch.randn(1, 24, 16, 16)}
    support = {8: torch.randn(1, 32, 8, 8), 4: torch.randn(1, 24, 16, 16)}
    masks = {
        s: torch.rand(1, len([b for b in method.backbone.blocks if b.scale == s]), 64 // s, 64 // s)
        for s in (8, 16, 32)
    }
    logits = decoder(masks, maps, (64, 64), (16, 16), decoder.support_share(support, (16, 16)))
    x = decoder.merged_masks(masks)
    x = torch.cat([resize(torch.cat([x, maps[8], support[8]], 1), (16, 16)), maps[4], support[4]], 1)
    x = decoder.mixer1(x)
    x = decoder.mixer3(resize(decoder.mixer2(resize(x, (32, 32))), (64, 64)))
    torch.testing.assert_close(logits, x, atol=1e-5, rtol=1e-4)


def test_segmenter_finds_labels_as_one_by_one() -> None:
    rng = torch.Generator().manual_seed(0)
    image = (torch.rand(60, 70, 3, generator=rng) * 255).byte().numpy()
    masks = [(F.avg_pool2d(torch.rand(1, 1, 60, 70, generator=rng), 9, 1, 4) > 0.5)[0, 0].numpy() for _ in range(3)]
    together = Segmenter(model(), device="cpu", precision="float32", tta_flip=True)
    for index, mask in enumerate(masks):
        together.teach(str(index), image, mask)
    found = together.segment(image).probabilities
    for index, mask in enumerate(masks):
        alone = Segmenter(model(), device="cpu", precision="float32", tta_flip=True)
        alone.teach(str(index), image, mask)
        wanted = alone.segment(image).probabilities[str(index)]
        torch.testing.assert_close(torch.tensor(found[str(index)]), torch.tensor(wanted), atol=1e-5, rtol=1e-5)
