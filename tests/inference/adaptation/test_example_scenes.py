"""Kept examples are small; images that look alike share a scene, and scenes a fold."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fewseg.inference.adaptation.examples import LONGEST_SIDE, Example, folds, scenes, working_pixels
from helpers.adapting import disc


def example(image: np.ndarray) -> Example:
    return Example.of(Image.fromarray(image), np.zeros(image.shape[:2], np.uint8))


def test_examples_of_huge_images_take_four_megabytes() -> None:
    image, mask = Image.new("RGB", (5000, 3000)), np.zeros((3000, 5000), np.uint8)
    mask[1000:2000, 1000:3000] = 1
    mask[:, :500] = 255
    kept = Example.of(image, mask)
    assert kept.image.shape == (3, 614, LONGEST_SIDE)
    assert kept.mask.shape == (614, LONGEST_SIDE)
    assert kept.image.nbytes + kept.mask.nbytes <= 4 * LONGEST_SIDE**2
    assert kept.image.untyped_storage().nbytes() == kept.image.nbytes  # holds on to nothing larger
    assert set(np.unique(kept.mask)) == {0, 1, 255}
    assert abs((kept.mask == 1).mean() - (mask == 1).mean()) < 0.005


def test_small_images_stay_as_they_are() -> None:
    image, mask = disc(0)
    kept = Example.of(Image.fromarray(image), mask)
    np.testing.assert_array_equal(kept.image.permute(1, 2, 0).numpy(), image)
    np.testing.assert_array_equal(kept.mask, mask)
    assert working_pixels(Image.new("RGB", (1, 5000))).shape == (3, LONGEST_SIDE, 1)


def test_near_duplicates_share_a_scene() -> None:
    drawn = np.random.default_rng(0).integers(0, 255, (3, 8, 10, 3), np.uint8)
    one, other, third = (np.asarray(Image.fromarray(image).resize((96, 80))) for image in drawn)
    brighter = (one.astype(float) * 0.8 + 30).astype(np.uint8)
    smaller = np.asarray(Image.fromarray(one).resize((48, 40), Image.Resampling.BOX))
    assert scenes([example(i) for i in (one, other, brighter, third, smaller, other)]) == [0, 1, 0, 2, 0, 1]


def test_a_fixed_camera_makes_no_single_scene() -> None:
    image = disc(0)[0]
    changed = image.copy()
    changed[10, 10] = 255
    assert scenes([example(i) for i in (image, changed, image)]) == [0, 1, 2]
    assert scenes([example(np.full((20, 30, 3), value, np.uint8)) for value in (0, 90)]) == [0, 1]


def test_labels_share_images_by_their_digest() -> None:
    one, again, other = example(disc(0)[0]), example(disc(0)[0]), example(disc(1)[0])
    assert one.image_digest == again.image_digest != other.image_digest
    turned = Example(torch.from_numpy(np.zeros((3, 4, 6), np.uint8)), np.zeros((4, 6), np.uint8))
    upright = Example(torch.from_numpy(np.zeros((3, 6, 4), np.uint8)), np.zeros((6, 4), np.uint8))
    assert turned.image_digest != upright.image_digest


@given(st.lists(st.integers(0, 12), min_size=2, max_size=30), st.integers(2, 6))
@settings(max_examples=100, deadline=None)
def test_scenes_stay_together_and_folds_are_balanced(scene: list[int], most: int) -> None:
    fold = folds(scene, most)
    assert len({(s, f) for s, f in zip(scene, fold, strict=True)}) == len(set(scene))
    count = min(most, len(set(scene)))
    assert set(fold) == set(range(count))
    sizes = [fold.count(f) for f in range(count)]
    assert max(sizes) - min(sizes) <= max(scene.count(s) for s in scene)
    assert fold == folds(scene, most)
