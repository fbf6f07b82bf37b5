"""The prototype baseline, training-free and learned, against its definition written out with numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidImage, InvalidOption
from fewseg.core.types import SupportSet
from fewseg.models.backbones import BackboneSpec, build_pyramid
from fewseg.models.methods.prototype import Prototype, PrototypeConfig
from fewseg.models.ops.prototypes import cluster_means, masked_mean
from fewseg.models.ops.resize import map_size, resize

SIZE = (48, 64)


def prototype(**config: Any) -> Prototype:
    """Over a backbone of 8, 8, 12 and 16 channels, always with the same weights."""
    torch.manual_seed(0)
    spec = BackboneSpec(
        "tiny", {"stem": 8, "widths": [8, 8, 12, 16], "depths": [1] * 4, "strides": [2] * 4, "expansions": [2] * 4}
    )
    return Prototype(build_pyramid(spec), PrototypeConfig(**{"image_size": 64, **config})).eval()


def episode(batch: int, shots: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    query = torch.randn(batch, 3, *SIZE, generator=rng)
    images = torch.randn(batch, shots, 3, *SIZE, generator=rng)
    masks = (torch.rand(batch * shots, 1, 3, 4, generator=rng) > 0.5).float()
    return query, images, F.interpolate(masks, SIZE).view(batch, shots, *SIZE)


def resized(x: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    return resize(torch.from_numpy(x)[None], size)[0].numpy()


def unit(x: NDArray[Any]) -> NDArray[Any]:
    return x / max(float(np.sqrt((x * x).sum())), 1e-12)


def centred(logits: Tensor) -> Tensor:
    """The same probabilities: what is learned gives only the difference of the two."""
    return logits - logits.mean(1, keepdim=True)


def reference(
    maps: list[NDArray[Any]],
    supports: list[list[NDArray[Any]]],
    masks: NDArray[Any],
    weights: tuple[float, ...],
    temperature: float,
) -> NDArray[Any]:
    """Logits (2, H, W) of one episode: query maps (C, h, w), each shot's maps, masks (n, H, W), loop by loop."""
    finest = maps[0].shape[1:]
    total = np.zeros((2, *finest))
    for scale, (query, weight) in enumerate(zip(maps, weights, strict=True)):
        sides = []
        for side in (0, 1):
            shots = []
            for shot, mask in zip(supports, masks, strict=True):
                near = resized(mask[None], query.shape[1:])[0]
                near = near if side else 1 - near
                shots.append((shot[scale] * near).sum((1, 2)) / max(near.sum(), 1e-4))
            sides.append(unit(np.mean(shots, 0)))
        cosines = np.zeros((2, *query.shape[1:]))
        for y in range(query.shape[1]):
            for x in range(query.shape[2]):
                cosines[:, y, x] = [unit(query[:, y, x]) @ side for side in sides]
        total += weight * resized(cosines, finest)
    return resized(temperature * total, SIZE)


@pytest.mark.parametrize("shots", [1, 3])
@torch.no_grad()
def test_is_what_it_says(shots: int) -> None:
    query, images, masks = episode(2, shots)
    free, learned = prototype(), prototype(learned=True)
    torch.testing.assert_close(learned(query, images, masks), centred(free(query, images, masks)))  # it starts there
    learned.log_factor.fill_(0.3)
    learned.scale_logits.copy_(torch.tensor([0.5, -1.0]))
    for layer in learned.project.values():
        torch.nn.init.normal_(layer.weight)
    weights = np.exp([0.5, -1.0]) / np.exp([0.5, -1.0]).sum()
    for method, parts, temperature in ((free, (0.5, 0.5), 20.0), (learned, tuple(weights), 20 * np.exp(0.3))):
        found = method(query, images, masks)
        for b in range(2):
            pyramid = [method.backbone(x)[2:] for x in (query[b : b + 1], images[b])]
            if method is learned:
                layers = method.project.values()
                pyramid = [[layer(m) for layer, m in zip(layers, maps, strict=True)] for maps in pyramid]
            maps, support = ([m.double().numpy() for m in side] for side in pyramid)
            expected = reference(
                [m[0] for m in maps],
                [[m[k] for m in support] for k in range(shots)],
                masks[b].numpy(),
                parts,
                temperature,
            )
            expected = expected - expected.mean(0) if method is learned else expected
            np.testing.assert_allclose(found[b].numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("shots", [1, 4, 7])
@torch.no_grad()
def test_training_free_numbers_stay_to_the_last_bit(shots: int) -> None:
    """The same operations in the same order as when nothing could be learned."""
    method = prototype()
    query, images, masks = episode(3, shots)
    total: Any = 0
    for q, s in zip(method.backbone(query)[2:], method.backbone(images.flatten(0, 1))[2:], strict=True):
        near = resize(masks.flatten(0, 1).unsqueeze(1), map_size(s))
        both = torch.stack([masked_mean(s, 1 - near), masked_mean(s, near)], 1).unflatten(0, masks.shape[:2])
        cosines = torch.einsum("bchw,bkc->bkhw", F.normalize(q, dim=1), F.normalize(both.mean(1), dim=-1))
        total = total + resize(cosines, map_size(method.backbone(query)[2]))
    assert torch.equal(method(query, images, masks), resize(method.temperature * total / 2, SIZE))


@pytest.mark.parametrize("width", [5, 40])
@torch.no_grad()
def test_projections_of_another_width(width: int) -> None:
    method = prototype(learned=True, width=width)
    query, images, masks = episode(1, 2)
    assert method.encode_query(query).tensors["map.16"].shape[1] == width
    if width > 16:  # a wider one keeps every cosine at first
        expected = centred(prototype()(query, images, masks))
        torch.testing.assert_close(method(query, images, masks), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_nearest_of_several_prototypes_counts() -> None:
    method = prototype(background_prototypes=3, foreground_prototypes=2, scales=(16,))
    query, images, masks = episode(2, 2)
    support = method.encode_support(images, masks)
    assert support.tensors["prototypes.16"].shape == (2, 2, 5, 12)
    found = method.segment(query, support)
    maps, kept = method.encode_query(query).tensors["map.16"].numpy(), support.tensors["prototypes.16"].numpy()
    for b in range(2):
        cosines = np.zeros((2, *maps.shape[2:]), np.float32)
        for y in range(maps.shape[2]):
            for x in range(maps.shape[3]):
                every = [[unit(maps[b, :, y, x]) @ unit(p) for p in shot] for shot in kept[b]]
                cosines[:, y, x] = (
                    max(c for shot in every for c in shot[:3]),
                    max(c for shot in every for c in shot[3:]),
                )
        np.testing.assert_allclose(found[b].numpy(), 20 * resized(cosines, SIZE), atol=2e-5)


def k_means(features: NDArray[Any], mask: NDArray[Any], count: int) -> list[NDArray[Any]]:
    """Features (C, N) under a mask (N): token by token."""
    mean = (features * mask).sum(1) / max(mask.sum(), 1e-4)
    tokens = features.T

    def nearest(token: NDArray[Any], centres: list[NDArray[Any]]) -> int:
        return int(np.argmax([unit(token) @ unit(c) for c in centres]))

    centres = [mean]
    for _ in range(count - 1):
        far = [m * (1 - max(unit(t) @ unit(c) for c in centres)) for t, m in zip(tokens, mask, strict=True)]
        centres.append(tokens[int(np.argmax(far))])
    for _ in range(11):
        groups = [nearest(t, centres) for t in tokens]
        sizes = [sum(m for m, g in zip(mask, groups, strict=True) if g == k) for k in range(count)]
        centres = [
            sum(m * t for m, t, g in zip(mask, tokens, groups, strict=True) if g == k) / sizes[k]
            if sizes[k] > 1e-4
            else mean
            for k in range(count)
        ]
    return centres


@pytest.mark.parametrize(("count", "size"), [(2, (4, 5)), (3, (7, 6)), (5, (2, 2))])
def test_clusters_against_plain_k_means(count: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(count)
    features, mask = rng.normal(size=(3, 6, *size)), np.clip(rng.normal(0.5, 0.6, (3, 1, *size)), 0, 1)
    mask[2] = 0  # nothing covered: zeros
    x = torch.from_numpy(features.astype(np.float32)).requires_grad_()
    found = cluster_means(x, torch.from_numpy(mask.astype(np.float32)), count)
    for b in range(3):
        expected = k_means(features[b].reshape(6, -1), mask[b].reshape(-1), count)
        np.testing.assert_allclose(found[b].detach().numpy(), expected, atol=1e-5)
    found.square().sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad[:2] != 0).any()


def test_clusters_find_parts() -> None:
    """Three directions in equal shares come out as three prototypes, whatever the batch around them."""
    directions = torch.eye(3, 8)
    tokens = directions[torch.arange(30) % 3] + 0.01 * torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    found = cluster_means(tokens.T.view(1, 8, 5, 6), torch.ones(1, 1, 5, 6), 3)[0]
    assert sorted((F.normalize(found, dim=1) @ directions.T).argmax(1).tolist()) == [0, 1, 2]
    assert (found @ directions.T).amax(1).min() > 0.97


@pytest.mark.parametrize("config", [{}, {"background_prototypes": 2, "width": 6}])
def test_alignment_changes_the_roles(config: dict[str, Any]) -> None:
    """Against the public contract: the query teaches with its predicted mask, the support images are segmented."""
    method = prototype(learned=True, alignment=0.7, **config).train()
    query, images, masks = episode(3, 2)
    features, support = method.encode_query(query), method.encode_support(images, masks)
    logits = method.segment(features, support).detach().clone()
    logits[1, 0] += 100  # no foreground predicted: this episode counts 0
    found = method.regulariser(features, support, logits)
    assert found is not None
    losses = []
    for b in (0, 2):
        swapped = method.encode_support(query[b][None, None], logits[b].argmax(0)[None, None])
        for k in range(2):
            back = method.segment(images[b, k][None], swapped)
            losses.append(F.cross_entropy(back, masks[b, k][None].long()))
    torch.testing.assert_close(found, 0.7 * torch.stack(losses).sum() / 6, atol=1e-5, rtol=1e-5)
    found.backward()
    for layer in method.project.values():
        assert (layer.weight.grad != 0).any()


def test_alignment_only_in_training_and_never_in_a_file(tmp_path: Any) -> None:
    query, images, masks = episode(1, 2)
    for method in (prototype(), prototype(learned=True, alignment=0.0).train(), prototype(learned=True)):
        features, support = method.encode_query(query), method.encode_support(images, masks)
        assert method.regulariser(features, support, method.segment(features, support)) is None
        assert not support.shared
    method = prototype(learned=True).train()
    support = method.encode_support(images, masks)
    assert set(support.tensors) == {"prototypes.16", "prototypes.32"}
    support.save(tmp_path / "support.safetensors")
    assert SupportSet.load(tmp_path / "support.safetensors").tensors.keys() == support.tensors.keys()
    assert method.regulariser(method.encode_query(query), support.select([0]), torch.zeros(1, 2, *SIZE)) is None


def test_what_is_learned_is_learned() -> None:
    """Noise channels that drown the class in cosines are turned down by a few steps of training."""
    method = prototype(learned=True, scales=(16,)).train()
    assert not list(prototype().trainable_parameters())
    rng = torch.Generator().manual_seed(3)
    masks = F.interpolate((torch.rand(8, 1, 3, 4, generator=rng) > 0.5).float(), SIZE)
    noise = torch.randn(8, 12, 3, 4, generator=rng)
    noise[:, 0] = resize(masks, (3, 4))[:, 0] - 0.5
    maps = [torch.zeros(4, 1, 1, 1)] * 2
    optimiser = torch.optim.Adam(method.trainable_parameters(), lr=3e-2)
    losses = []
    for _ in range(40):
        query = method.query_from_maps([*maps, noise[:4], maps[0]], SIZE)
        support = method.support_from_maps([*maps, noise[4:], maps[0]], masks[4:])
        logits = method.segment(query, support)
        extra = method.regulariser(query, support, logits)
        loss = F.cross_entropy(logits, masks[:4, 0].long())
        optimiser.zero_grad()
        (loss + extra).backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"background_prototypes": 0}, "background_prototypes 0: give a whole number"),
        ({"learned": True, "width": 0}, "width 0: give"),
        ({"width": 8}, "width 8 without learned"),
        ({"learned": True, "temperature": 0.0}, "temperature 0.0: give a finite number above 0"),
        ({"temperature": float("nan")}, "temperature nan: give a finite"),
        ({"image_size": 0}, "image_size 0: give a whole number of pixels"),
        ({"alignment": -1.0}, "alignment -1.0: give 0 or more"),
        ({"scales": (64,)}, "has only 1/4, 1/8, 1/16, 1/32"),
    ],
)
def test_impossible_choices(config: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        prototype(**config)


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64)])
def test_queries_of_another_shape_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidImage, match=r"expected \(B, 3, H, W\)"):
        prototype().encode_query(torch.zeros(shape))
