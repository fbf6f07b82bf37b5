"""Augmentation of training images and masks: crops, flips, rotations and colours (ours)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fewseg.core.prediction import IGNORE
from fewseg.images.transforms import IMAGENET_MEAN, square_mask, to_tensor

_FILL: Final = tuple(round(255 * value) for value in IMAGENET_MEAN)
_ATTEMPTS: Final = 8
_MIN_PIXELS: Final = 16


@dataclass(frozen=True)
class Augmentation:
    """Strength of the augmentation; not part of any paper's recipe."""

    area: tuple[float, float] = (0.4, 1.0)
    """Share of the image that a crop keeps."""
    stretch: float = 1.33
    """Largest change of a crop's aspect ratio, either way, beside the squashing to a square."""
    keep: float = 0.5
    """Least share of the foreground that a crop keeps; others are drawn again."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    rotation: float = 15.0
    """Largest rotation in degrees, either way."""
    rotate: float = 0.5
    """Probability of a rotation."""
    jitter: float = 0.3
    """Largest relative change of brightness, contrast and saturation."""
    hue: float = 0.04
    """Largest shift of the hue, in turns."""
    grayscale: float = 0.1
    """Probability of dropping the colour."""

    def view(
        self, image: Image.Image, mask: NDArray[np.uint8], size: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """See `augment`."""
        return augment(image, mask, size, rng, self)


def augment(
    image: Image.Image,
    mask: NDArray[np.uint8],
    size: int,
    rng: np.random.Generator,
    settings: Augmentation = Augmentation(),
) -> tuple[Tensor, Tensor]:
    """A random view of an image and its mask: (3, size, size) normalised and (size, size) of 0, 1, 255.

    Keeps at least 16 pixels of foreground, or falls back to the whole image, squashed; one without any is varied all
    the same. Pixels that a rotation brings in from outside are the mean colour, and ignored in the mask.
    """
    crop, labels = _geometry(image, mask, size, rng, settings)
    return to_tensor(_colours(crop, rng, settings)), labels


def _geometry(
    image: Image.Image, mask: NDArray[np.uint8], size: int, rng: np.random.Generator, settings: Augmentation
) -> tuple[Image.Image, Tensor]:
    foreground = np.count_nonzero(mask == 1)
    flip = rng.random() < settings.flip
    for _ in range(_ATTEMPTS):
        box = _crop_box(image.size, rng, settings)
        angle = float(rng.uniform(-settings.rotation, settings.rotation)) if rng.random() < settings.rotate else 0.0
        part = mask[box[1] : box[3], box[0] : box[2]]
        if np.count_nonzero(part == 1) < settings.keep * foreground:
            continue
        labels = _rotated_mask(square_mask(part, size), angle)
        if not foreground or int((labels == 1).sum()) >= _MIN_PIXELS:
            crop = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
            if angle:
                crop = crop.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_FILL)
            break
    else:
        labels = square_mask(mask, size)
        crop = image.resize((size, size), Image.Resampling.BILINEAR)
    if flip:
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels.flip(-1)
    return crop, labels


def _rotated_mask(mask: Tensor, angle: float) -> Tensor:
    if not angle:
        return mask
    turned = Image.fromarray(mask.byte().numpy()).rotate(angle, Image.Resampling.NEAREST, fillcolor=IGNORE)
    return torch.from_numpy(np.array(turned)).float()


def _crop_box(size: tuple[int, int], rng: np.random.Generator, settings: Augmentation) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of a crop."""
    width, height = size
    side = math.sqrt(rng.uniform(*settings.area))
    bend = math.exp(rng.uniform(-0.5, 0.5) * math.log(settings.stretch))
    across = min(width, max(1, round(width * side * bend)))
    down = min(height, max(1, round(height * side / bend)))
    left = int(rng.integers(width - across + 1))
    top = int(rng.integers(height - down + 1))
    return left, top, left + across, top + down


def _colours(image: Image.Image, rng: np.random.Generator, settings: Augmentation) -> Image.Image:
    brightness, contrast, saturation = (float(f) for f in rng.uniform(1 - settings.jitter, 1 + settings.jitter, 3))
    hue = float(rng.uniform(-settings.hue, settings.hue))
    grey = rng.random() < settings.grayscale
    image = ImageEnhance.Brightness(image).enhance(brightness)
    image = ImageEnhance.Contrast(image).enhance(contrast)
    if grey:
        return image.convert("L").convert("RGB")
    image = ImageEnhance.Color(image).enhance(saturation)
    return tv.adjust_hue(image, hue) if hue else image
