"""Which pixels are learnt from, with what weight, and which are judged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewseg.inference.adaptation.sampling import JUDGED, lattice, sample_pixels

COUNTS = (120, 100, 80)


def mask_of(kind: str, size: tuple[int, int] = (60, 50)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    if kind in ("square", "partial"):
        mask[20:40, 15:30] = 1
    if kind == "partial":
        mask[:, 25:] = 255
    if kind == "full":
        mask[:] = 1
    if kind == "point":
        mask[:] = 255
        mask[30, 30], mask[5, 5] = 1, 0
    return mask


@pytest.mark.parametrize("kind", ["square", "partial", "empty", "full", "point"])
def test_samples_are_labelled_pixels(kind: str) -> None:
    mask = mask_of(kind)
    sample = sample_pixels(mask, COUNTS, np.random.default_rng(0), total=0.5)
    values = mask[sample.rows, sample.columns]
    assert (values != 255).all()
    np.testing.assert_array_equal(values == 1, sample.truth == 1)
    assert len(values) <= sum(COUNTS)
    assert (sample.weight >= 0).all()
    assert sample.weight.sum() == pytest.approx(0.5, abs=1e-5)
    if kind == "point":
        assert {(30, 30), (5, 5)} == set(zip(sample.rows.tolist(), sample.columns.tolist(), strict=True))
    judged = lattice(mask)
    assert (mask[judged.rows, judged.columns] != 255).all()


def test_no_labelled_pixel_at_all() -> None:
    mask = np.full((9, 9), 255, np.uint8)
    assert len(sample_pixels(mask, COUNTS, np.random.default_rng(0)).rows) == 0
    assert len(lattice(mask).rows) == 0


def test_sides_weigh_the_square_root_of_their_share() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[10:20, 10:20] = 1  # a hundredth
    sample = sample_pixels(mask, COUNTS, np.random.default_rng(0))
    inside = float(sample.weight[sample.truth == 1].sum())
    assert inside == pytest.approx(0.1 / (0.1 + 0.99**0.5), abs=1e-4)


def test_some_are_drawn_next_to_the_foreground() -> None:
    mask = mask_of("square", (400, 400))
    sample = sample_pixels(mask, (100, 100, 100), np.random.default_rng(0))
    beside = slice(200, 300)
    rows, columns = sample.rows[beside], sample.columns[beside]
    distance = np.maximum(np.maximum(20 - rows, rows - 39), np.maximum(15 - columns, columns - 29))
    assert (sample.truth[beside] == 0).all()
    assert ((distance > 0) & (distance <= 6)).all()


def test_none_twice_in_a_group_and_the_same_for_the_same_seed() -> None:
    one, two = (sample_pixels(mask_of("square"), COUNTS, np.random.default_rng(3)) for _ in range(2))
    np.testing.assert_array_equal(one.rows, two.rows)
    np.testing.assert_array_equal(one.weight, two.weight)
    places = one.rows[:120] * 50 + one.columns[:120]
    assert len(set(places.tolist())) == 120


@given(st.integers(1, 300), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_the_lattice_is_spread_evenly(height: int, width: int) -> None:
    judged = lattice(np.zeros((height, width), np.uint8))
    assert 1 <= len(judged.rows) <= JUDGED
    assert len(judged.rows) >= min(height * width, JUDGED) / 4
    assert len(set(zip(judged.rows.tolist(), judged.columns.tolist(), strict=True))) == len(judged.rows)
    assert (judged.rows >= 0).all()
    assert (judged.rows < height).all()
    assert (judged.columns < width).all()
    for places, side in ((judged.rows, height), (judged.columns, width)):
        gaps = np.diff(np.unique(places))
        if len(gaps):
            assert gaps.max() - gaps.min() <= 1
        assert abs(places.mean() - (side - 1) / 2) <= 1
