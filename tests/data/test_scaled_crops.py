"""SCCAN's augmentation: OpenCV's numbers, and how much of an object its crops keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fewseg.core.prediction import IGNORE
from fewseg.data.episodes.scaled_crops import ScaledCrops, blurred, rotated, scaled
from fewseg.data.episodes.views import VIEWS

GOLDEN = Path(__file__).parents[1] / "golden" / "opencv_views.npz"


def test_scaling_rotation_and_blur_are_opencvs() -> None:
    golden = np.load(GOLDEN)
    image, mask = golden["image"].astype(np.float32), golden["mask"]
    for name, factor in (("smaller", 0.83), ("larger", 1.23)):
        pixels, labels = scaled(image, mask, factor)
        assert pixels.shape == golden[f"{name}.image"].shape
        assert np.abs(pixels - golden[f"{name}.image"]).max() < 1e-3
        assert np.array_equal(labels, golden[f"{name}.mask"])
    pixels, labels = rotated(image, mask, 8.3)
    assert np.abs(pixels - golden["rotated.image"]).max() < 1e-2
    assert np.array_equal(labels, golden["rotated.mask"])
    assert np.abs(blurred(image) - golden["blurred.image"]).max() < 1e-3


@pytest.mark.parametrize(
    ("left", "top", "kept", "below_half"),
    [(10, 10, 0.85, 0.10), (530, 190, 1.0, 0.0), (270, 190, 1.05, 0.0)],
)
def test_crops_keep_most_of_the_object(left: int, top: int, kept: float, below_half: float) -> None:
    """An object of 100 pixels near the corner, near the right edge and in the middle of 640 x 480, as COCO's are.

    The released code left areas of 0.85 and 1.00 of the object's (scaled by up to 1.25), and less than half of it in
    10 % and 0 % of 60 draws.
    """
    image = Image.new("RGB", (640, 480))
    mask = np.zeros((480, 640), np.uint8)
    mask[top : top + 100, left : left + 100] = 1
    views = ScaledCrops(scale=(0.8, 1.25), rotation=0.0, blur=0.0)
    areas = []
    for seed in range(200):
        _, labels = views.view(image, mask, 473, np.random.default_rng(seed))
        areas.append(int((labels == 1).sum()) / 100**2)
    assert abs(np.mean(areas) - kept) < 0.07
    assert abs(np.mean(np.array(areas) < 0.5) - below_half) < 0.06


def test_queries_without_their_class_are_varied_too() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8))
    views = [VIEWS["sccan"].view(image, np.zeros((60, 80), np.uint8), 48, np.random.default_rng(s)) for s in (0, 1)]  # type: ignore[union-attr]
    assert not torch.equal(views[0][0], views[1][0])
    assert all(set(labels.unique().tolist()) <= {0.0, float(IGNORE)} for _, labels in views)


def test_views_repeat_and_their_mask_follows_the_image() -> None:
    mask = np.zeros((90, 120), np.uint8)
    mask[20:70, 30:90] = 1
    image = Image.fromarray(np.repeat(mask[:, :, None] * 200, 3, 2).astype(np.uint8))
    for seed in range(6):
        pixels, labels = ScaledCrops(blur=0.0).view(image, mask, 64, np.random.default_rng(seed))
        again, _ = ScaledCrops(blur=0.0).view(image, mask, 64, np.random.default_rng(seed))
        assert torch.equal(pixels, again)
        bright = pixels[0] > pixels[0][labels != IGNORE].mean()
        assert ((labels == 1) == bright)[labels != IGNORE].float().mean() > 0.95
