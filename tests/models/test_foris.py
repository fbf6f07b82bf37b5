"""FoRIS against a plain float64 implementation of its description, and the properties that it must have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fewseg.core.errors import InvalidOption
from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.methods import create_method
from fewseg.models.methods.contract import specimen
from fewseg.models.methods.foris import FoRIS, FoRISConfig, scores
from fewseg.models.methods.foris.support import class_model, hard_background
from fewseg.models.ops.patches import patches_to_pixels
from helpers.invented_scenes import GivenMaps, black_map, scene
from helpers.plain_foris import plain_foris

CHANNELS, RANK = 48, 5


class Invented:
    """An episode of invented features: what the method makes of it, and what the reference does."""

    def __init__(self, seed: int, shots: int, grid: tuple[int, int] = (9, 12), config: FoRISConfig | None = None):
        self.grid, self.size = grid, (16 * grid[0], 16 * grid[1])
        shown = [scene(seed, f"support.{k}", CHANNELS, grid) for k in range(shots)]
        self.maps = [tokens for tokens, _ in shown] + [scene(seed, "query", CHANNELS, grid)[0]]
        self.masks = torch.stack([mask for _, mask in shown])
        self.black = black_map(seed, CHANNELS, grid)
        self.colours = torch.rand(3, *grid, generator=torch.Generator().manual_seed(seed))
        config = config or FoRISConfig(image_size=160, svd_components=RANK)
        self.method = FoRIS(GivenMaps(self.black, self.maps), config).eval()
        query = self.method.query_from_maps([self.maps[-1][None]], self.size)
        self.query = QueryFeatures(self.size, {**query.tensors, "colours": self.colours[None]})

    def support(self, order: list[int] | None = None, masks: Tensor | None = None) -> SupportSet:
        chosen = list(range(len(self.masks))) if order is None else order
        maps = torch.stack([self.maps[k] for k in chosen])
        return self.method.support_from_maps([maps], (self.masks if masks is None else masks)[chosen][None])

    def reference(self, masks: Tensor | None = None, gate: bool = False) -> dict[str, np.ndarray]:
        used = self.masks if masks is None else masks
        shots = [(m.double().numpy(), k.double().numpy()) for m, k in zip(self.maps, used, strict=False)]
        query, colours = self.maps[-1].double().numpy(), self.colours.double().numpy()
        return plain_foris(self.black.double().numpy(), shots, query, colours, RANK, gate)

    def final(self, support: SupportSet | None = None) -> Tensor:
        found = self.method.decide(self.query, support or self.support(), 0)
        assert found is not None
        return found[0]


def close(found: Tensor, expected: np.ndarray, tolerance: float = 2e-5) -> None:
    np.testing.assert_allclose(found.flatten().numpy(), expected.ravel(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("seed", "shots"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 5), (6, 1), (7, 2)])
def test_reference(seed: int, shots: int) -> None:
    """Every step, and the mask, to the rounding of float32."""
    made, expected = Invented(seed, shots), Invented(seed, shots).reference()
    support = made.support()
    debias = made.method._needs_debiasing(made.query, support, 0, 0)
    assert debias == bool(expected["debias"])
    found = made.method.decide(made.query, support, 0)
    assert found is not None
    close(found[1], expected["votes"])
    tokens = made.method._query_tokens(made.query, 0, debias)
    _, model = made.method._class_model(support, 0, debias)
    evidence = scores.token_evidence(tokens, model)
    close(evidence.score, expected["first"])
    close(evidence.foreground, expected["f"])
    close(evidence.background, expected["r"], 1e-4)
    close(found[0], expected["final"], 1e-4)
    mask = patches_to_pixels(torch.from_numpy(expected["final"]).float().view(made.grid), made.size) > 0.5
    logits = made.method.segment(made.query, support)[0]
    assert (logits.argmax(0).bool() != mask).float().mean() < 1e-3


@pytest.mark.parametrize("seed", [11, 12])
def test_steps_after_the_evidence(seed: int) -> None:
    """Prior, penalty and reweighting, each with its bounds."""
    made = Invented(seed, 2)
    expected, support = made.reference(), made.support()
    debias = bool(expected["debias"])
    tokens = made.method._query_tokens(made.query, 0, debias)
    _, model = made.method._class_model(support, 0, debias)
    joint, plain = made.method._labels(made.query, 0, debias, tokens)
    evidence = scores.token_evidence(tokens, model)
    votes = torch.from_numpy(expected["votes"]).float()
    assert set((votes * 2).tolist()) <= {0.0, 1.0, 2.0}
    candidates = scores.with_even_places(votes >= 0.5, made.grid)
    prior = scores.cluster_prior(tokens, joint, candidates, model.mean)
    close(prior, expected["prior"], 1e-4)
    assert float(prior.max()) == 1
    penalty = scores.disagreement_penalty(evidence, votes, prior)
    close(penalty, expected["penalty"], 1e-4)
    assert 0 <= float(penalty.min()) <= float(penalty.max()) <= 0.105
    change = scores.cluster_reweighting(evidence, plain)
    close(change, expected["change"], 1e-4)
    assert float(change.min()) >= -0.12 - 1e-6
    assert float(change.max()) <= 0.2 + 1e-6


@pytest.mark.parametrize("seed", [21, 22])
def test_the_gate_changes_nothing(seed: int) -> None:
    plain, gated = (Invented(seed, 1).reference(gate=gate)["final"] for gate in (False, True))
    np.testing.assert_allclose(gated, plain, rtol=0, atol=1e-12)


def test_the_order_of_the_shots_does_not_matter() -> None:
    made = Invented(31, 3)
    expected = made.final()
    for order in ([2, 0, 1], [1, 2, 0], [2, 1, 0]):
        torch.testing.assert_close(made.final(made.support(order)), expected, rtol=0, atol=1e-6)


def test_copies_of_a_shot_are_nearly_the_shot() -> None:
    made = Invented(32, 1)
    once, thrice = made.support(), made.support([0, 0, 0])
    torch.testing.assert_close(made.final(thrice), made.final(once), rtol=0, atol=0.02)
    models = [made.method._class_model(support, 0, True)[1] for support in (once, thrice)]
    assert len(models[0].prototypes) == len(models[1].prototypes)


def test_joined_shots_are_shots_encoded_together() -> None:
    made = Invented(33, 3)
    parts = [made.support([k]) for k in range(3)]
    joined = SupportSet.concatenate(parts)
    torch.testing.assert_close(made.final(joined), made.final(), rtol=0, atol=1e-6)
    torch.testing.assert_close(made.final(joined.drop(1)), made.final(made.support([0, 2])), rtol=0, atol=1e-6)


def test_a_shot_with_an_empty_mask_is_left_out() -> None:
    made = Invented(34, 3)
    masks = made.masks.clone()
    masks[1] = 0
    found = made.final(made.support(masks=masks))
    torch.testing.assert_close(found, made.final(made.support([0, 2])), rtol=0, atol=0)
    close(found, made.reference(masks)["final"], 1e-4)
    nothing = made.method.segment(made.query, made.support(masks=torch.zeros_like(masks)))
    assert nothing.isfinite().all()
    assert not nothing.argmax(1).any()


def test_a_mask_without_background() -> None:
    made = Invented(35, 1)
    masks = torch.ones_like(made.masks)
    support = made.support(masks=masks)
    model = made.method._class_model(support, 0, True)[1]
    assert not model.background.any()
    close(made.final(support), made.reference(masks)["final"], 1e-4)


def test_the_best_token_is_always_foreground() -> None:
    for seed in range(40, 50):
        found = Invented(seed, 1).final()
        assert float(found.max()) == pytest.approx(1, abs=1e-6)
        assert float(found.min()) == 0


def test_small_background_gives_one_hard_token() -> None:
    tokens = torch.eye(4)[:3]
    mean = torch.tensor([0.6, 0.8, 0.0, 0.0])
    expected = torch.tensor([0.0, 1.0, 0.0, 0.0]) - 0.8 * mean
    torch.testing.assert_close(hard_background(tokens, mean), expected / expected.norm())


def test_one_token_and_one_cluster() -> None:
    """A single token is one cluster; the prior of a single cluster is its candidates."""
    model = class_model(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[True]]), 0.6)
    assert len(model.prototypes) == 1
    assert not model.background.any()
    tokens = torch.nn.functional.normalize(torch.rand(6, 4) + 1, dim=1)
    candidates = torch.tensor([True, False, True, False, False, True])
    prior = scores.cluster_prior(tokens, torch.zeros(6, dtype=torch.int64), candidates, tokens[0])
    torch.testing.assert_close(prior, candidates.float())


def test_debiasing_can_be_forced() -> None:
    for below, wanted in ((2.0, True), (-1.0, False)):
        config = FoRISConfig(image_size=160, svd_components=RANK, debias_below=below)
        made = Invented(51, 1, config=config)
        assert made.method._needs_debiasing(made.query, made.support(), 0, 0) is wanted


def test_colours_are_those_of_the_central_pixels() -> None:
    method = specimen(create_method("foris", backbone="vit_tiny_patch16_224", image_size=64))
    pixels = torch.rand(1, 3, 64, 48)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (pixels - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.inference_mode():
        colours = method.encode_query(images).tensors["colours"]
    centres = pixels.unfold(2, 16, 16).unfold(3, 16, 16)[..., 7:9, 7:9].mean((-1, -2))
    torch.testing.assert_close(colours, centres, rtol=0, atol=1e-5)


def test_labels_are_found_once_for_all_supports(monkeypatch: pytest.MonkeyPatch) -> None:
    made, calls = Invented(52, 2), []
    from fewseg.models.methods.foris import method as module

    def counted(tokens: Tensor, similarity: float) -> Tensor:
        calls.append(len(tokens))
        return clusters(tokens, similarity)

    clusters = module.cosine_clusters
    monkeypatch.setattr(module, "cosine_clusters", counted)
    for order in ([0], [1], [0, 1]):
        made.final(made.support(order))
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"svd_components": 192}, "svd_components 192.*192 channels"),
        ({"block": 12}, "block 12.*0 to 11"),
        ({"colour_weight": -1.0}, "colour_weight"),
        ({"debias_below": 3.0}, "debias_below"),
        ({"tau": 1.5}, "tau"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_impossible_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        create_method("foris", backbone="vit_tiny_patch16_224", image_size=64, **options)


def test_the_config_is_frozen_and_has_the_published_defaults() -> None:
    config = FoRISConfig()
    assert (config.image_size, config.tau, config.debias_below) == (1024, 0.6, 0.8)
    assert replace(config, image_size=512).image_size == 512
