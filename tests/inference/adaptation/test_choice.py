"""The choice between networks: noise is never taken, what is clearly better is, and no example judges itself."""

from __future__ import annotations

import numpy as np
import pytest

from fewseg.inference.adaptation.choice import ENOUGH_EXAMPLES, OPTIONS, Choice, choose

PARTS = sorted({part for option in OPTIONS for part in option})
PIXELS = 400


def logits(truth: list[np.ndarray], wrong: float, rng: np.random.Generator, spread: float = 0.03) -> list[np.ndarray]:
    """Logits of the truth with a share of the pixels the other way round, more or fewer in each example."""
    found = []
    for true in truth:
        flipped = rng.permutation(len(true)) < len(true) * np.clip(wrong + rng.normal(0, spread), 0, 1)
        found.append(np.where(true ^ flipped, 2.0, -2.0).astype(np.float32))
    return found


def chosen(count: int, seed: int, spread: float = 0.03, **wrong: float) -> Choice:
    """Of `count` examples where each network, and the frozen model, is wrong at so many of the pixels.

    Networks that are wrong as often are wrong at the same pixels: what they have in common is not better by itself.
    """
    rng = np.random.default_rng(seed)
    truth = [rng.random(PIXELS) < 0.4 for _ in range(count)]
    frozen = logits(truth, wrong.pop("frozen"), rng, spread)
    by_share = {share: logits(truth, share, rng, spread) for share in dict.fromkeys(wrong.values())}
    return choose({"frozen": frozen, **{part: by_share[share] for part, share in wrong.items()}}, truth)


@pytest.mark.parametrize("count", [2, 3])
def test_differences_of_a_few_points_are_noise(count: int) -> None:
    taken = [chosen(count, seed, 0.005, frozen=0.2, **dict.fromkeys(PARTS, 0.2)) for seed in range(30)]
    assert not any(choice.better for choice in taken)
    assert all(choice.after == choice.before for choice in taken)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 30])
def test_what_is_reported_of_noise_does_not_flatter(count: int) -> None:
    """Networks that are now better, now worse than the frozen model, which few examples do not tell apart."""
    taken = [chosen(count, seed, frozen=0.2, **dict.fromkeys(PARTS, 0.2)) for seed in range(60)]
    assert sum(choice.better for choice in taken) <= (15 if count < ENOUGH_EXAMPLES else 45)
    gains = [np.mean(choice.after) - np.mean(choice.before) for choice in taken]
    assert abs(np.mean(gains)) < 0.02


@pytest.mark.parametrize("count", [3, 10])
def test_what_is_worse_is_not_taken(count: int) -> None:
    for seed in range(10):
        choice = chosen(count, seed, frozen=0.1, **dict.fromkeys(PARTS, 0.2))
        assert not choice.better
        assert choice.after == choice.before


@pytest.mark.parametrize("count", [2, 5, 10])
def test_what_is_clearly_better_is_taken(count: int) -> None:
    choice = chosen(count, 0, frozen=0.4, **dict.fromkeys(PARTS, 0.05))
    assert choice.better
    assert choice.parts == OPTIONS[0]  # the first stands where another is not clearly better
    if count > 2:
        assert np.mean(choice.after) > np.mean(choice.before) + 0.3


def test_the_best_network_is_used_alone_where_the_others_spoil_it() -> None:
    choice = chosen(20, 0, frozen=0.4, all=0.35, backbone=0.45, filters=0.02)
    assert choice.parts == ("filters",)
    assert np.mean(choice.after) > 0.9


def test_no_example_takes_part_in_its_own_choice() -> None:
    """Networks that help one example only: what is reported for it is chosen by the others, which refuse them."""
    rng = np.random.default_rng(0)
    truth = [rng.random(PIXELS) < 0.4 for _ in range(8)]
    frozen = logits(truth, 0.3, rng)
    good = [np.where(truth[0], 2.0, -2.0).astype(np.float32), *frozen[1:]]
    choice = choose({"frozen": frozen, **dict.fromkeys(PARTS, good)}, truth)
    assert choice.after[0] == choice.before[0] < 1


def test_empty_truth_and_examples_of_other_sizes() -> None:
    truth = [np.zeros(5, bool), np.zeros(9, bool), np.ones(3, bool)]
    nothing = [np.full(len(t), -1, np.float32) for t in truth]
    choice = choose({"frozen": nothing, **dict.fromkeys(PARTS, nothing)}, truth)
    assert choice.before == (1.0, 1.0, 0.0)
    assert not choice.better
