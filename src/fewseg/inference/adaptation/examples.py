"""The taught images and masks themselves, which adaptation learns from, and which of them look alike."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

LONGEST_SIDE: Final = 1024
"""Examples are kept, and pixels classified, at no more than this."""

_THUMBNAIL: Final = 48
"""Side of the images that are compared, in pixels."""

_ALIKE: Final = 0.98
"""Correlation of thumbnails from which two images count as one scene: frames of a clip, copies."""


@dataclass(frozen=True)
class Example:
    """An image and its mask, at their own size or shrunk to `LONGEST_SIDE`."""

    image: Tensor
    """(3, H, W), uint8."""
    mask: NDArray[np.uint8]
    """(H, W): 1 foreground, 0 background, 255 unlabelled."""

    @classmethod
    def of(cls, image: Image.Image, mask: NDArray[np.uint8]) -> Example:
        """An upright RGB image with its mask, which may be of another size."""
        pixels = working_pixels(image)
        size = pixels.shape[2], pixels.shape[1]
        return cls(pixels, np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)))

    @cached_property
    def image_digest(self) -> str:
        """A hash of the image: labels may share one."""
        return hashlib.sha256(repr(self.image.shape).encode() + self.image.numpy().tobytes()).hexdigest()


def working_pixels(image: Image.Image) -> Tensor:
    """An RGB image as (3, H, W), uint8, shrunk to `LONGEST_SIDE` where it is larger."""
    factor = LONGEST_SIDE / max(image.size)
    if factor < 1:
        width, height = (max(1, round(side * factor)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def scenes(examples: Sequence[Example]) -> list[int]:
    """The scene of each example: images that look alike share one, numbered in order.

    Every example is a scene of its own where all would share one, as with a fixed camera.
    """
    thumbnails = np.stack([_thumbnail(example.image) for example in examples])
    alike = thumbnails @ thumbnails.T >= _ALIKE
    scene = list(range(len(examples)))
    for one in range(len(examples)):
        for other in range(one):
            if alike[one, other] and scene[one] != scene[other]:
                scene = [scene[other] if s == scene[one] else s for s in scene]
    numbers = {s: i for i, s in enumerate(dict.fromkeys(scene))}
    return [numbers[s] for s in scene] if len(numbers) > 1 else list(range(len(examples)))


def _thumbnail(image: Tensor) -> NDArray[np.float64]:
    """A unit vector: the image in grey at `_THUMBNAIL`, less its mean."""
    grey = Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")
    small = np.asarray(grey.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX), np.float64).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    # Images of one colour: all alike.
    return small / length if length > 1e-9 else np.full(small.shape, len(small) ** -0.5)


def folds(scene: Sequence[int], most: int) -> list[int]:
    """The fold of every example, of `most` at most: scenes stay together, folds are about equally large."""
    count = min(most, len(set(scene)))
    sizes = [0] * count
    fold_of: dict[int, int] = {}
    for one in sorted(set(scene), key=lambda s: (-scene.count(s), s)):
        smallest = sizes.index(min(sizes))
        fold_of[one] = smallest
        sizes[smallest] += scene.count(one)
    return [fold_of[s] for s in scene]
