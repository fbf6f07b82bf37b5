"""SCCAN's augmentation: random scale, rotation, blur, flip, and a crop that keeps most of the foreground.

Without OpenCV, whose arithmetic it follows on floats: equal to version 5 within 0.004 grey levels; version 4 rounds the
coordinates of a rotation to 1/32 of a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.prediction import IGNORE
from fewseg.images.transforms import IMAGENET_MEAN, normalise

_Pixels: TypeAlias = NDArray[np.float32]
"""(H, W, 3), 0 to 255."""
_Mask: TypeAlias = NDArray[np.uint8]
"""(H, W) of 0, 1, 255."""

_FILL: Final = np.array([255 * value for value in IMAGENET_MEAN], np.float32)
_KERNEL: Final = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""OpenCV's Gaussian of five pixels, in each direction."""
_CROPS: Final = 31


@dataclass(frozen=True)
class ScaledCrops:
    """Random scale, rotation, blur, flip, then a square crop at the image's own resolution.

    Outside the image there is the mean colour, ignored in the mask. The crop is drawn again, up to 31 times in all,
    until it keeps enough of the foreground; the last one stays.
    """

    scale: tuple[float, float] = (0.9, 1.1)
    """Range of the factor on the image's size; 0.8 to 1.25 for COCO."""
    rotation: float = 10.0
    """Largest rotation in degrees, either way; half of the images are rotated."""
    blur: float = 0.5
    """Probability of a Gaussian blur of about one pixel."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    keep: float = 0.85
    """Fraction of the foreground that a crop should keep."""

    def view(
        self, image: Image.Image, mask: NDArray[np.uint8], size: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """See `Views`."""
        pixels, labels = scaled(np.asarray(image.convert("RGB"), np.float32), mask, float(rng.uniform(*self.scale)))
        if rng.random() < 0.5:
            pixels, labels = rotated(pixels, labels, float(rng.uniform(-self.rotation, self.rotation)))
        if rng.random() < self.blur:
            pixels = blurred(pixels)
        if rng.random() < self.flip:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        pixels, labels = _cropped(*_padded(pixels, labels, size), size, self.keep, rng)
        image_tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return normalise(image_tensor / 255), torch.from_numpy(np.ascontiguousarray(labels)).float()


def scaled(pixels: _Pixels, mask: _Mask, factor: float) -> tuple[_Pixels, _Mask]:
    """OpenCV's `resize` by a factor: `INTER_LINEAR` for the image, no antialiasing; `INTER_NEAREST` for the mask."""
    for axis in (0, 1):
        length = pixels.shape[axis]
        places = np.arange(max(1, round(length * factor)))
        mask = mask.take(np.minimum((places * (1 / factor)).astype(int), length - 1), axis)
        source = np.clip((places + 0.5) * (1 / factor) - 0.5, 0, length - 1)
        first = np.floor(source).astype(int)
        share = (source - first).astype(np.float32).reshape([-1, 1, 1] if axis == 0 else [1, -1, 1])
        second = np.minimum(first + 1, length - 1)
        pixels = pixels.take(first, axis) * (1 - share) + pixels.take(second, axis) * share
    return pixels, mask


def rotated(pixels: _Pixels, mask: _Mask, angle: float) -> tuple[_Pixels, _Mask]:
    """Turned by an angle in degrees, counter-clockwise; mean colour and 255 come in from outside.

    As OpenCV's `warpAffine` by `getRotationMatrix2D` about (width / 2, height / 2), bilinear and nearest.
    """
    height, width = mask.shape
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - height / 2, x - width / 2
    across, down = cos * x - sin * y + width / 2, sin * x + cos * y + height / 2
    column, row = np.rint(across).astype(int), np.rint(down).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    labels = np.where(inside, mask[row.clip(0, height - 1), column.clip(0, width - 1)], IGNORE).astype(np.uint8)
    grid = np.stack([2 * across / max(1, width - 1) - 1, 2 * down / max(1, height - 1) - 1], -1).astype(np.float32)
    above = torch.from_numpy((pixels - _FILL).transpose(2, 0, 1)[None])  # zeros outside are the mean colour
    turned = F.grid_sample(above, torch.from_numpy(grid)[None], "bilinear", "zeros", align_corners=True)
    return turned[0].numpy().transpose(1, 2, 0) + _FILL, labels


def blurred(pixels: _Pixels) -> _Pixels:
    """OpenCV's `GaussianBlur` with a kernel of 5 x 5 pixels, borders mirrored."""
    for axis in (0, 1):
        length = pixels.shape[axis]
        places = np.abs(np.arange(-2, length + 2))  # mirrored about the border pixels
        places = np.where(places >= length, 2 * (length - 1) - places, places).clip(0, length - 1)
        wide = pixels.take(places, axis)
        parts = [weight * wide.take(range(i, i + length), axis) for i, weight in enumerate(_KERNEL)]
        pixels = np.sum(parts, 0, dtype=np.float32)
    return pixels


def _padded(pixels: _Pixels, mask: _Mask, size: int) -> tuple[_Pixels, _Mask]:
    """At least `size` in both directions: an image smaller than the crop lies in the middle of it."""
    height, width = mask.shape
    high, wide = max(height, size), max(width, size)
    if (high, wide) == (height, width):
        return pixels, mask
    top, left = (high - height) // 2, (wide - width) // 2
    canvas, labels = np.tile(_FILL, (high, wide, 1)), np.full((high, wide), IGNORE, np.uint8)
    canvas[top : top + height, left : left + width] = pixels
    labels[top : top + height, left : left + width] = mask
    return canvas, labels


def _cropped(pixels: _Pixels, mask: _Mask, size: int, keep: float, rng: np.random.Generator) -> tuple[_Pixels, _Mask]:
    height, width = mask.shape
    wanted = keep * np.count_nonzero(mask == 1)
    part = (slice(0, size), slice(0, size))
    for _ in range(_CROPS):
        top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
        part = slice(top, top + size), slice(left, left + size)
        if np.count_nonzero(mask[part] == 1) >= wanted:
            break
    return pixels[part], mask[part]
