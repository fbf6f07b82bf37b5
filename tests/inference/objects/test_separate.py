"""Masks cut into single objects."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from fewseg.core.errors import InvalidMask
from fewseg.inference.objects import hierarchy, regions
from fewseg.inference.objects.examples import ExampleObjects
from fewseg.inference.objects.found import find_objects, objects_of
from fewseg.inference.objects.separate import separate
from fewseg.inference.objects.shape import ObjectShape
from fewseg.inference.objects.typical import typical_object
from helpers.touching import chain, ellipse, grid

DISCS = typical_object([ExampleObjects.of(grid(3, 4) > 0, grid(3, 4))])


@st.composite
def blobs(draw: st.DrawFn) -> NDArray[np.bool_]:
    """Masks of ellipses that may touch, with specks and holes."""
    shape = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    mask = np.zeros(shape, np.bool_)
    for _ in range(draw(st.integers(0, 7))):
        centre = draw(st.floats(0, shape[1])), draw(st.floats(0, shape[0]))
        radii = draw(st.floats(0.5, 20)), draw(st.floats(0.5, 20))
        mask |= ellipse(shape, centre, radii, draw(st.floats(0, 3)))
    noise = np.random.default_rng(draw(st.integers(0, 9))).random(shape)
    return (mask & (noise < 0.98)) | (noise < draw(st.sampled_from([0.0, 0.01])))


@given(blobs(), st.sampled_from([ObjectShape(), DISCS]))
@settings(max_examples=40, deadline=None)
def test_objects_are_disjoint_and_make_the_mask(mask: NDArray[np.bool_], shape: ObjectShape) -> None:
    before = mask.copy()
    found = find_objects(mask, shape)
    covered = np.zeros(mask.shape, np.int64)
    for number, one in enumerate(found, 1):
        own = one.mask
        covered += own
        rows, columns = np.nonzero(own)
        assert one.number == number
        assert one.area == len(rows) > 0
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.allclose(one.centroid, (columns.mean() + 0.5, rows.mean() + 0.5))
        assert np.array_equal(own[one.box[1] : one.box[3], one.box[0] : one.box[2]], one.crop)
    assert np.array_equal(covered, mask)
    assert np.array_equal(mask, before)
    assert np.array_equal(find_objects(mask, shape).map, found.map)


@given(blobs())
@settings(max_examples=20, deadline=None)
def test_regions_that_do_not_touch_are_never_joined_but_specks(mask: NDArray[np.bool_]) -> None:
    found, (numbered, count) = separate(mask, ObjectShape()), ndimage.label(mask, np.ones((3, 3)))
    large = np.bincount(numbered.ravel(), minlength=count + 1) > 0.02 * np.pi * 20**2
    for number in range(1, found.max() + 1):
        assert large[np.unique(numbered[found == number])].sum() <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("radius", [7.0, 12.0, 30.0])
@pytest.mark.parametrize("step", [1.6, 1.9])
def test_discs_in_a_row_are_counted(count: int, radius: float, step: float) -> None:
    truth = chain(count, radius, step)
    found = separate(truth > 0, ObjectShape())
    assert found.max() == count
    example = chain(1, radius)
    taught = typical_object([ExampleObjects.of(example > 0, example)] * 4)
    found = separate(truth > 0, taught)
    assert found.max() == count
    for number in range(1, count + 1):
        own = truth == number
        assert max(((found == i) & own).sum() / ((found == i) | own).sum() for i in range(1, count + 1)) > 0.8


def test_ellipses_that_touch() -> None:
    shape = (120, 160)
    truth = [
        ellipse(shape, (50, 60), (35, 14), 0.3),
        ellipse(shape, (92, 84), (30, 14), 1.2),
        ellipse(shape, (130, 25), (25, 12)),
    ]
    mask = np.any(truth, axis=0)
    assert ndimage.label(mask)[1] == 2
    found = find_objects(mask, DISCS.scaled(1.5))
    assert len(found) == 3


def test_shapes_that_are_not_convex_stay_whole_where_examples_show_such() -> None:
    star = np.zeros((90, 90), np.bool_)
    for angle in np.linspace(0, np.pi, 4, endpoint=False):
        star |= ellipse(star.shape, (45, 45), (40, 7), float(angle))
    example = ExampleObjects.of(star)
    assert len(find_objects(star, typical_object([example] * 3))) == 1
    turned = np.rot90(star)[::-1]
    assert len(find_objects(np.ascontiguousarray(turned), typical_object([example]))) == 1


def test_the_typical_size_of_binary_examples_tells_objects_that_touch() -> None:
    alone, pair = grid(2, 3) > 0, chain(2, 10.0) > 0
    shape = typical_object([ExampleObjects.of(alone), ExampleObjects.of(pair)])
    assert shape.log_area == pytest.approx(np.log(np.pi * 100), abs=0.05)
    assert len(find_objects(pair, shape)) == 2


def test_the_size_of_examples_decides_where_the_outline_does_not() -> None:
    """A long bar is one object among bars, and several among squares."""
    bar = np.zeros((30, 100), np.bool_)
    bar[10:20, 5:95] = True
    bar[10:12, 27::23] = bar[18:20, 27::23] = False
    long = typical_object([ExampleObjects.of(bar.astype(np.uint8))] * 6)
    assert len(find_objects(bar, long)) == 1
    square = np.zeros((30, 100), np.int32)
    square[10:20, 5:27] = 1
    square[10:20, 60:82] = 2
    short = typical_object([ExampleObjects.of(square > 0, square)] * 6)
    assert len(find_objects(bar, short)) == 4


def test_mirrored_masks_have_mirrored_objects() -> None:
    truth = chain(4) > 0
    found, mirrored = separate(truth, DISCS), separate(np.ascontiguousarray(truth[:, ::-1]), DISCS)[:, ::-1]
    assert found.max() == mirrored.max() == 4
    pairs = set(zip(found[truth].tolist(), mirrored[truth].tolist(), strict=True))
    large = [pair for pair in pairs if ((found == pair[0]) & (mirrored == pair[1])).sum() > 40]
    assert len(large) == 4


def test_specks_belong_to_the_nearest_object() -> None:
    mask = grid(2, 2, 20.0, 12.0) > 0
    discs = typical_object([ExampleObjects.of(mask)])
    mask[32, 60] = True  # between two discs, nearer the right one
    found = find_objects(mask, discs)
    assert len(found) == 4
    assert found.map[32, 60] == found.map[32, 84]
    mask[:2, 3:5] = True  # cut by the image's border: an object of its own
    assert len(find_objects(mask, discs)) == 5


def test_large_regions_are_divided_at_a_smaller_scale() -> None:
    truth = chain(3, 160.0)
    found = separate(truth > 0, ObjectShape())
    assert found.max() == 3
    assert np.array_equal(found > 0, truth > 0)


def test_empty_and_impossible_masks() -> None:
    assert len(find_objects(np.zeros((4, 5), np.bool_))) == 0
    assert len(find_objects(np.ones((1, 1), np.bool_))) == 1
    for wrong in (np.zeros((4, 5), np.uint8), np.zeros((1, 4, 5), np.bool_)):
        with pytest.raises(InvalidMask, match=r"give bool \(H, W\)"):
            find_objects(wrong)  # type: ignore[arg-type]


def test_scores_are_mean_probabilities() -> None:
    mask = grid(1, 2) > 0
    probabilities = np.where(np.arange(mask.shape[1]) < mask.shape[1] / 2, 0.6, 0.9) * np.ones(mask.shape)
    assert [one.score for one in find_objects(mask, confidence=probabilities)] == pytest.approx([0.6, 0.9])
    coarse = probabilities[::7, ::7]
    assert [one.score for one in find_objects(mask, confidence=coarse)] == pytest.approx([0.6, 0.9])
    mask[:], mask[3, 3] = False, True
    assert find_objects(mask, confidence=coarse)[0].score == pytest.approx(0.6)
    assert find_objects(mask)[0].score == 1


def test_objects_by_label_are_found_when_asked_for_and_travel() -> None:
    mask = chain(2) > 0
    stuff = ObjectShape(kind="stuff")
    found = objects_of({"disc": mask, "sky": mask}, {"sky": stuff}, {})
    assert list(found) == ["disc"]
    assert "sky" not in found
    with pytest.raises(KeyError, match="'sky' is stuff"):
        found["sky"]
    assert found["disc"] is found["disc"]
    assert len(pickle.loads(pickle.dumps(found))["disc"]) == 2
    none = found.without(["disc"], mask.shape)
    assert len(none["disc"]) == 0
    assert "sky" not in none


def test_hulls_and_necks() -> None:
    square = np.zeros((9, 9), np.bool_)
    square[2:6, 1:8] = True
    assert regions.hull_of(square)[1] == pytest.approx(28)
    assert regions.solidity(square) == 1
    assert hierarchy.narrowest_neck(square) == 1
    assert hierarchy.narrowest_neck(chain(2) > 0) == pytest.approx(np.sqrt(1 - 0.85**2), abs=0.1)


def test_maps_of_several_strips_are_as_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, boxes and centroids do not depend on how many rows are looked at together."""
    mask = np.random.default_rng(0).random((40, 30)) < 0.2
    whole = find_objects(mask)
    monkeypatch.setattr("fewseg.inference.objects.separate._AT_ONCE", 95)
    monkeypatch.setattr("fewseg.core.objects._AT_ONCE", 95)
    parts = find_objects(mask)
    np.testing.assert_array_equal(parts.map, whole.map)
    assert [(one.box, one.area, one.centroid) for one in parts] == [(one.box, one.area, one.centroid) for one in whole]
    for one in whole:
        rows, columns = np.nonzero(whole.map == one.number)
        assert one.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert one.centroid == pytest.approx((columns.mean() + 0.5, rows.mean() + 0.5))


def test_the_objects_of_a_huge_mask_take_a_few_bytes_a_pixel() -> None:
    mask = np.zeros((4000, 5000), bool)
    mask[1000:] = mask[:800, :2000] = True
    tracemalloc.start()
    found = find_objects(mask)
    assert [one.area for one in found] == [800 * 2000, 3000 * 5000]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * mask.size + (160 << 20)


@pytest.mark.parametrize("shape", [(201, 20000), (3, 5000), (5000, 3)])
def test_scores_in_narrow_images(shape: tuple[int, int]) -> None:
    """Confidences lie at every k-th pixel, by the longer side."""
    step = -(-max(shape) // 1024)
    known = np.full([-(-side // step) for side in shape], 0.75, np.float16)
    (one,) = find_objects(np.ones(shape, bool), ObjectShape(), known)
    assert one.score == pytest.approx(0.75)


@given(st.integers(2, 12), st.data())
@settings(max_examples=60, deadline=None)
def test_necks_are_joined_from_the_widest(count: int, data: st.DataObject) -> None:
    """Against looking at all necks at every step; with equal heights, as round numbers give them."""
    heights = {i: float(data.draw(st.integers(4, 7))) for i in range(1, count + 1)}
    pairs = [(a, b) for b in range(2, count + 1) for a in range(1, b)]
    chosen = data.draw(st.lists(st.sampled_from(pairs), unique=True)) + [(i, i + 1) for i in range(1, count)]
    saddles = {pair: float(data.draw(st.integers(1, 4))) for pair in chosen}
    expected, summits, open_ = [], dict(heights), dict(saddles)
    for joined in range(count + 1, 2 * count):
        necks = {(a, b): height / min(summits[a], summits[b]) for (a, b), height in open_.items()}
        a, b = max(necks, key=lambda pair: (necks[pair], -pair[0], -pair[1]))
        expected.append(hierarchy.Join(a, b, min(1.0, necks[a, b])))
        summits[joined] = max(summits[a], summits[b])
        merged: dict[tuple[int, int], float] = {}
        for (c, d), height in open_.items():
            pair = tuple(sorted(joined if x in (a, b) else x for x in (c, d)))
            if pair != (joined, joined):
                merged[pair[0], pair[1]] = max(height, merged.get((pair[0], pair[1]), 0.0))
        open_ = merged
    assert list(hierarchy._joins(dict(heights), saddles)) == expected
