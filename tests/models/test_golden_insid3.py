"""INSID3 against the outputs of the authors' released code, on invented features and with a random ViT-S/16.

Floats agree to 2e-5, everything discrete exactly. The files hold what the release computes; features, masks and weights
are drawn again from their seeds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.images.transforms import square_image, square_mask
from fewseg.models.backbones import create_backbone
from fewseg.models.methods.insid3 import INSID3, INSID3Config
from fewseg.models.methods.insid3.matching import (
    backward_matches,
    count_votes,
    find_candidates,
    majority,
    score_clusters,
)
from fewseg.models.ops.patches import mask_to_patches, patches_to_pixels
from helpers.golden_models import fill, golden
from helpers.invented_scenes import GivenMaps, black_map, scene

EPISODES = [
    "insid3_features_224_1shot",
    "insid3_features_224_2shot",
    "insid3_features_224_3shot",
    "insid3_features_384_3shot",
    "insid3_features_oblong_1shot",
    "insid3_dinov3_vits16_224_1shot",
    "insid3_dinov3_vits16_256_3shot",
]


@dataclass
class Case:
    """One recorded episode, encoded by this project's method."""

    method: INSID3
    query: Tensor
    images: Tensor
    masks: Tensor
    features: QueryFeatures
    support: SupportSet
    expected: dict[str, np.ndarray]

    def tokens(self, name: str) -> Tensor:
        return self.features.tensors[name][0].flatten(1).T

    @property
    def supports(self) -> Tensor:
        return self.support.tensors["debiased"][0].flatten(2).transpose(1, 2)

    @property
    def small(self) -> Tensor:
        return self.support.tensors["mask"][0] == 1


def numbers(text: str) -> tuple[int, int]:
    height, width = text.split("x")
    return int(height), int(width)


def with_invented_features(meta: dict[str, str], config: INSID3Config) -> tuple[INSID3, Tensor, Tensor, Tensor]:
    seed, channels, shots = int(meta["seed"]), int(meta["channels"]), int(meta["shots"])
    grid, size = numbers(meta["grid"]), numbers(meta["size"])
    shown = [scene(seed, f"support.{k}", channels, grid) for k in range(shots)]
    maps = [tokens for tokens, _ in shown] + [scene(seed, "query", channels, grid)[0]]
    backbone = GivenMaps(black_map(seed, channels, grid), maps)
    images = torch.stack([backbone.image(k, size) for k in range(shots)])
    masks = torch.stack([mask for _, mask in shown])
    return INSID3(backbone, config), backbone.image(shots, size)[None], images[None], masks[None]


def with_random_transformer(meta: dict[str, str], config: INSID3Config) -> tuple[INSID3, Tensor, Tensor, Tensor]:
    backbone = create_backbone(meta["backbone"])
    with torch.no_grad():
        for name, value in backbone.net.state_dict().items():
            value.copy_(torch.from_numpy(fill.parameter(int(meta["weights_seed"]), name, tuple(value.shape))))
    seed, size, shots = int(meta["seed"]), numbers(meta["size"])[0], int(meta["shots"])
    images = torch.stack([torch.from_numpy(fill.image(seed, f"support.0.{k}", size)) for k in range(shots)])
    masks = torch.stack([torch.from_numpy(fill.mask(seed, f"mask.0.{k}", size)) for k in range(shots)])
    query = torch.from_numpy(fill.image(seed, "query.0", size))
    return INSID3(backbone, config), query[None], images[None], masks[None]


@pytest.fixture(scope="module", params=EPISODES)
def case(request: pytest.FixtureRequest) -> Case:
    expected, meta = golden(request.param)
    config = INSID3Config(
        image_size=numbers(meta["size"])[0],
        svd_components=int(meta["svd_components"]),
        tau=float(meta["tau"]),
        merge_threshold=float(meta["merge_threshold"]),
    )
    build = with_random_transformer if meta["kind"] == "vit" else with_invented_features
    method, query, images, masks = build(meta, config)
    with torch.inference_mode():
        features, support = method.eval().encode_query(query), method.encode_support(images, masks)
    return Case(method, query, images, masks, features, support, expected)


def close(found: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=2e-5)


def test_support(case: Case) -> None:
    np.testing.assert_array_equal(case.small.numpy(), case.expected["mask_small"])
    close(case.support.tensors["prototype"][0], case.expected["shot_prototypes"])
    if "debiased_sub" in case.expected:
        debiased = torch.cat([case.support.tensors["debiased"][0], case.features.tensors["debiased"]])
        step = debiased.shape[1] // case.expected["debiased_sub"].shape[1]
        close(debiased[:, ::step, ::2, ::2], case.expected["debiased_sub"])


def test_candidates(case: Case) -> None:
    similarity, debiased = case.tokens("debiased") @ prototype_of(case), case.tokens("debiased")
    shape = case.expected["forward"].shape
    close(prototype_of(case), case.expected["prototype"])
    close(similarity.view(shape), case.expected["forward"])
    small = case.small.flatten(1)
    inside = torch.stack([backward_matches(debiased, s, m) for s, m in zip(case.supports, small, strict=True)])
    np.testing.assert_array_equal(inside.view(len(small), *shape).numpy(), case.expected["inside"])
    votes = count_votes(debiased, case.supports, small)
    np.testing.assert_array_equal(votes.view(shape).numpy(), case.expected["votes"])
    candidates = find_candidates(similarity, debiased, case.supports, small)
    np.testing.assert_array_equal(candidates.view(shape).numpy(), case.expected["candidates"])


def prototype_of(case: Case) -> Tensor:
    return F.normalize(case.support.tensors["prototype"][0].mean(0), dim=0)


def test_clusters_and_their_scores(case: Case) -> None:
    expected = case.expected
    labels = case.features.tensors["labels"][0]
    np.testing.assert_array_equal(labels.numpy(), expected["labels"])
    candidates = torch.from_numpy(expected["candidates"].astype(bool)).flatten()
    scores = score_clusters(
        case.tokens("tokens"), case.tokens("debiased"), labels.flatten(), candidates, prototype_of(case)
    )
    assert scores.seed == int(expected["seed"])
    close(scores.seed_similarity, expected["seed_similarity"])
    for name in ("cross", "intra", "area", "score"):
        close(getattr(scores, name), expected[name])


@torch.inference_mode()
def test_masks(case: Case) -> None:
    """The public method's mask is the release's at the input's size; in patches it is `decide`'s."""
    inside, sureness = case.method.decide(case.features, case.support, 0)
    np.testing.assert_array_equal(inside.numpy() == 1, case.expected["mask_low"])
    assert 0 <= float(sureness.min()) <= float(sureness.max()) <= 1
    logits = case.method(case.query, case.images, case.masks)[0]
    found = logits.argmax(0).numpy() == 1
    np.testing.assert_array_equal(found, case.expected["mask_input"])
    np.testing.assert_array_equal(logits.softmax(0)[1].numpy() >= 0.5, found)  # as segmenters cut probabilities


def edges(prefix: str) -> dict[str, Tensor]:
    found, _ = golden("insid3_edges")
    return {k.removeprefix(f"{prefix}."): torch.from_numpy(v) for k, v in found.items() if k.startswith(f"{prefix}.")}


PATCHES = ["three_of_four", "two_of_four_and_a_whole_patch", "two_of_four_only", "top_left_pixel", "one_pixel"]


@pytest.mark.parametrize("name", [*PATCHES, "two_far_pixels", "ring", "all"])
def test_masks_of_patches(name: str) -> None:
    values = edges(f"patches.{name}")
    grid, pixels = values["grid"], values["pixels"].long()
    mask = torch.zeros(16 * grid.shape[0], 16 * grid.shape[1])
    mask[pixels[:, 0], pixels[:, 1]] = 1
    if name == "all":
        mask.fill_(1)
    found = mask_to_patches(mask[None], tuple(grid.shape))[0]
    np.testing.assert_array_equal(found.numpy(), grid.numpy().astype(bool))


def test_patches_to_pixels() -> None:
    values = edges("up")
    low = values.pop("low").float()
    size = 16 * low.shape[0], 16 * low.shape[1]
    wanted = np.unpackbits(values["input"].numpy(), count=size[0] * size[1]).reshape(size)
    np.testing.assert_array_equal(patches_to_pixels(low, size) > 0.5, wanted == 1)


@pytest.mark.parametrize("shots", [1, 2, 3, 4, 5])
def test_votes_of_several_shots(shots: int) -> None:
    values = edges(f"candidates.{shots}")
    target, supports = values["target"].flatten(1).T, values["supports"].flatten(2).transpose(1, 2)
    masks = values["masks"].flatten(1) > 0
    votes = count_votes(target, supports, masks)
    np.testing.assert_array_equal(votes.view(6, 6), values["votes"])
    found = find_candidates(target @ values["prototype"], target, supports, masks)
    np.testing.assert_array_equal(found.view(6, 6), values["result"].bool())
    assert majority(shots) == {1: 1, 2: 1, 3: 2, 4: 2, 5: 3}[shots]


def test_candidates_where_nothing_is_similar() -> None:
    values = edges("nothing_positive")
    target, support = values["target"].flatten(1).T, values["support"].flatten(1).T
    found = find_candidates(target @ values["prototype"], target, support[None], torch.ones(1, 36, dtype=torch.bool))
    np.testing.assert_array_equal(found.view(6, 6), values["result"].bool())


@pytest.mark.parametrize("name", ["mixed", "weak_seed", "two_negatives", "diffuse_seed"])
def test_scores_of_clusters(name: str) -> None:
    values = edges(name)
    tokens, debiased = (values[k].flatten(1).T for k in ("normalised", "debiased"))
    labels = values["labels"].flatten().long()
    scores = score_clusters(tokens, debiased, labels, values["candidates"].flatten().bool(), values["prototype"])
    assert scores.seed == int(values["seed"])
    for part in ("cross", "intra", "area", "score"):
        close(getattr(scores, part), values[part].numpy())
    np.testing.assert_array_equal((scores.score > 0.2)[labels].view(6, 6), values["result"].bool())


def test_preprocessing() -> None:
    from PIL import Image

    values, meta = golden("insid3_edges")
    side = int(meta["input"])
    image = square_image(Image.fromarray(values["pre.picture"]), side)
    close(image[:, ::2, ::2], values["pre.image"])
    height, width = values["pre.picture"].shape[:2]
    mask = np.unpackbits(values["pre.mask"], count=height * width).reshape(height, width)
    wanted = np.unpackbits(values["pre.mask_input"], count=side * side).reshape(side, side)
    np.testing.assert_array_equal(square_mask(mask, side).numpy(), wanted)
