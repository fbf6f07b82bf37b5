"""ROM and RUM against the checks of the definition and a plain flood fill."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fewseg.core.errors import InvalidMask
from fewseg.evaluation.metrics.regions import RegionMeter, region_overlaps, rom_rum


def _slow_regions(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    left, found = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}, []
    while left:
        region, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            region.add((y, x))
            near = {(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)} & left
            left -= near
            border += near
        found.append(region)
    return found


def _slow(prediction: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """The definition, word for word."""
    truths, guesses = _slow_regions(target == 1), _slow_regions((prediction == 1) & (target != 255))
    if not truths or not guesses:
        return 0.0, 0.0

    def side(many: list[set[tuple[int, int]]], others: list[set[tuple[int, int]]]) -> float:
        split = [g for g in many if sum(bool(g & p) for p in others) > 1]
        pieces = [p for p in others if any(g & p for g in split)]
        ratio = len(split) * len(pieces) / (len(many) * len(others))
        return math.tanh(ratio * sum(sum(bool(g & p) for p in others) - 1 for g in split))

    return side(truths, guesses), side(guesses, truths)


def test_four_blocks_under_one_prediction() -> None:
    truth = np.zeros((9, 9), np.uint8)
    for y, x in ((1, 1), (1, 6), (6, 1), (6, 6)):
        truth[y : y + 2, x : x + 2] = 1
    whole = np.ones_like(truth)
    assert rom_rum(region_overlaps(whole, truth)) == pytest.approx((0.0, math.tanh(3)))
    assert rom_rum(region_overlaps(truth, whole)) == pytest.approx((math.tanh(3), 0.0))
    assert rom_rum(region_overlaps(truth, truth)) == (0.0, 0.0)


def test_three_truths_two_predictions() -> None:
    truth = np.array([[1, 0, 1, 0, 0, 1]], np.uint8)
    guess = np.array([[1, 1, 1, 0, 0, 1]], np.uint8)
    assert rom_rum(region_overlaps(guess, truth)) == pytest.approx((0.0, math.tanh(2 / 6)), abs=1e-12)


MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.integers(0, 1)),
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 255])),
    )
)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_matches_a_flood_fill(masks: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, target = masks
    found = rom_rum(region_overlaps(prediction, target))
    assert found == pytest.approx(_slow(prediction, target), abs=1e-12)
    elsewhere = np.where(target == 255, 0, target), (target == 255).astype(np.uint8)
    assert found == rom_rum(region_overlaps(prediction, *elsewhere)), "ignored pixels may also come as a mask"


def test_larger_masks_match_a_flood_fill() -> None:
    rng = np.random.default_rng(0)
    for share in (0.2, 0.4, 0.6):
        prediction, target = (rng.random((40, 30)) < share).astype(np.uint8), rng.choice([0, 1, 255], (40, 30))
        assert rom_rum(region_overlaps(prediction, target)) == pytest.approx(_slow(prediction, target), abs=1e-12)


def test_means_over_episodes_then_classes() -> None:
    rng = np.random.default_rng(1)
    meter, values = RegionMeter(), {0: [], 4: []}
    for class_id in (0, 0, 0, 4):
        prediction, target = rng.integers(0, 2, (2, 12, 10))
        values[class_id].append(meter.add(class_id, prediction, target))
    scores = meter.scores()
    means = {c: np.mean(v, 0) for c, v in values.items()}
    assert scores.class_scores == {c: pytest.approx(tuple(m)) for c, m in means.items()}
    assert (scores.rom, scores.rum) == pytest.approx(tuple(np.mean(list(means.values()), 0)))
    assert meter.scores((0,)).rom == pytest.approx(means[0][0])
    assert RegionMeter().scores().class_scores == {}


def test_shapes_must_agree() -> None:
    with pytest.raises(InvalidMask, match="resize the prediction"):
        region_overlaps(np.zeros((3, 4)), np.zeros((4, 3)))
