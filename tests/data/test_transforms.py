"""Preprocessing against golden vectors, and what augmentation promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fewseg.data.episodes.augment import Augmentation, augment
from fewseg.images.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalise,
    padded_image,
    padded_mask,
    padded_size,
    square_image,
    square_mask,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocess.npz"


def denormalise(images: Tensor) -> Tensor:
    """The inverse of `normalise`: (..., 3, H, W) back to [0, 1], clipped."""
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images * std + mean).clamp(0, 1)


def test_square_matches_golden_vectors() -> None:
    with np.load(GOLDEN) as golden:
        photo = Image.fromarray(golden["photo"])
        for image, key in ((photo, "square64"), (photo.transpose(Image.Transpose.TRANSPOSE), "square64_tall")):
            assert torch.allclose(square_image(image, 64), torch.from_numpy(golden[key]), atol=1e-6)
        assert torch.equal(square_mask(golden["mask"], 64), torch.from_numpy(golden["square64_mask"]))


def test_padded_matches_golden_vectors() -> None:
    with np.load(GOLDEN) as golden:
        photo, mask = Image.fromarray(golden["photo"]), golden["mask"]
        tall = photo.transpose(Image.Transpose.TRANSPOSE)
        for image, labels, key in ((photo, mask, "padded121"), (tall, mask.T, "padded121_tall")):
            assert torch.allclose(padded_image(image, 121), torch.from_numpy(golden[key]), atol=2e-6)
            expected = torch.from_numpy(golden[f"{key}_mask"]).float()
            assert torch.equal(padded_mask(np.ascontiguousarray(labels), 121), expected)


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (480, 640), (121, 90)])
def test_padded_masks_take_the_pixels_that_opencv_takes(shape: tuple[int, int]) -> None:
    """`INTER_NEAREST` reads source pixel floor(x * side / new side), exactly."""
    mask = np.random.default_rng(0).integers(0, 2, shape, np.uint8)
    height, width = (max(8, side * 473 // max(shape) // 8 * 8) for side in shape)
    got = padded_mask(mask, 473)[:height, :width]
    expected = [[mask[y * shape[0] // height, x * shape[1] // width] for x in range(width)] for y in range(height)]
    assert torch.equal(got, torch.tensor(np.array(expected)).float())


def test_padding_is_black_and_ignored() -> None:
    """At least one step of 8 pixels is left of a thin image; the longest side never fills a side of 473."""
    image, mask = (
        padded_image(Image.new("RGB", (900, 5), "white"), 473),
        padded_mask(np.ones((5, 900), np.uint8), 473),
    )
    assert (denormalise(image)[0, :8, :472] > 0.99).all()
    assert torch.equal(mask == 1, denormalise(image)[0] > 0.5)
    assert torch.equal(image[:, 8:], normalise(torch.zeros(3, 465, 473)))
    assert set(mask.unique().tolist()) == {1.0, 255.0}


def test_mask_keeps_ignored_pixels() -> None:
    mask = np.zeros((10, 20), np.uint8)
    mask[:, 10:] = 255
    assert set(square_mask(mask, 8).unique().tolist()) == {0.0, 255.0}


def test_normalise_and_back() -> None:
    image = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(denormalise(normalise(image)), image, atol=1e-6)


def _pair() -> tuple[Image.Image, np.ndarray]:
    """A red square on blue: the mask can be checked against the colours."""
    pixels = np.zeros((90, 120, 3), np.uint8)
    pixels[..., 2] = 200
    mask = np.zeros((90, 120), np.uint8)
    mask[20:50, 70:110] = 1
    pixels[mask == 1] = (220, 20, 20)
    return Image.fromarray(pixels), mask


def test_augmentation_moves_image_and_mask_together() -> None:
    image, mask = _pair()
    for seed in range(20):
        settings = Augmentation(jitter=0, hue=0, grayscale=0, rotate=1.0)
        picture, labels = augment(image, mask, 64, np.random.default_rng(seed), settings)
        assert picture.shape == (3, 64, 64)
        assert labels.shape == (64, 64)
        colours = denormalise(picture)
        red = colours[0] > colours[2]
        known = labels != 255
        assert (red[known] == (labels == 1)[known]).float().mean() > 0.95


def test_augmentation_keeps_foreground_and_repeats() -> None:
    image, _ = _pair()
    mask = np.zeros((90, 120), np.uint8)
    mask[0:14, 0:14] = 1  # in the corner, where most crops lose it
    views = []
    for seed in range(30):
        picture, labels = augment(image, mask, 64, np.random.default_rng(seed))
        assert (labels == 1).sum() >= 16
        assert set(labels.unique().tolist()) <= {0.0, 1.0, 255.0}
        again, _ = augment(image, mask, 64, np.random.default_rng(seed))
        assert torch.equal(picture, again)
        views.append(picture)
    assert not torch.equal(views[0], views[1])


def test_augmentation_of_a_tiny_object_falls_back_to_the_whole_image() -> None:
    image, _ = _pair()
    mask = np.zeros((90, 120), np.uint8)
    mask[40:43, 60:63] = 1
    settings = Augmentation(flip=0, jitter=0, hue=0, grayscale=0)
    picture, labels = augment(image, mask, 64, np.random.default_rng(0), settings)
    assert torch.equal(labels, square_mask(mask, 64))
    assert torch.allclose(picture, square_image(image, 64), atol=1e-6)


@pytest.mark.parametrize("size", [384, 400, 480])
def test_padded_images_fill_the_longest_side_whatever_their_size(size: int) -> None:
    for longest in range(200, 1301):
        assert padded_size(longest // 2, longest, size)[1] == size
