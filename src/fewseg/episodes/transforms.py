"""Pictures and masks to the square tensors a method takes, and the augmentation of training pairs.

`square_image` and `square_mask` are DCAMA's and HSNet's preprocessing exactly: Pillow's antialiased bilinear for the
picture, torch's `nearest` from the original for the mask. `padded_image` and `padded_mask` are SCCAN's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from fewseg.backbones.base import IMAGENET_MEAN, IMAGENET_STD
from fewseg.ops.resize import resize_by_centres
from fewseg.types import IGNORE

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Augmentation",
    "Resize",
    "augment",
    "normalise",
    "padded_image",
    "padded_mask",
    "square_image",
    "square_mask",
]

Resize = Literal["square", "padded"]
"""How a picture comes to the model's square input: squashed, or with its shape kept and the rest left empty."""

_FILL: Final = tuple(round(255 * value) for value in IMAGENET_MEAN)
_ATTEMPTS: Final = 8
_MIN_PIXELS: Final = 16


def normalise(images: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] to ImageNet-normalised."""
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def square_image(image: Image.Image, size: int) -> Tensor:
    """A Pillow RGB picture, squashed to (3, size, size), float32, ImageNet-normalised."""
    return _to_tensor(tv.resize(image, [size, size], interpolation=tv.InterpolationMode.BILINEAR))


def square_mask(mask: NDArray[np.uint8], size: int) -> Tensor:
    """A mask (H, W) of 0, 1 and 255, squashed to (size, size), float32, the same values: nearest from the original."""
    # Cached masks are read-only, which torch warns about: nothing here writes to them, but a copy is cheap.
    whole = torch.from_numpy(np.array(mask, dtype=np.uint8))
    return F.interpolate(whole[None, None], (size, size), mode="nearest")[0, 0].float()


def padded_image(image: Image.Image, size: int) -> Tensor:
    """A Pillow RGB picture at the top left of a black (3, size, size), float32, ImageNet-normalised.

    OpenCV's `INTER_LINEAR` on float pixels: bilinear between pixel centres, no antialiasing.
    """
    # OpenCV computes coordinates in double precision; in float32 they would be off by 1e-5 of a pixel.
    pixels = tv.pil_to_tensor(image).double()[None]
    inside = resize_by_centres(pixels, _padded_size(image.height, image.width, size))
    canvas = torch.zeros(3, size, size)
    canvas[:, : inside.shape[-2], : inside.shape[-1]] = inside[0].float() / 255
    return normalise(canvas)


def padded_mask(mask: NDArray[np.uint8], size: int) -> Tensor:
    """A mask (H, W) of 0, 1 and 255 as `padded_image` places its picture, 255 outside; (size, size), float32.

    OpenCV's `INTER_NEAREST`. Torch's, in float32, is a pixel off where the place in the source is a whole number.
    """
    whole = torch.from_numpy(np.array(mask, dtype=np.uint8))
    height, width = _padded_size(mask.shape[0], mask.shape[1], size)
    rows, columns = (torch.arange(n) * was // n for n, was in zip((height, width), mask.shape, strict=True))
    canvas = torch.full((size, size), float(IGNORE))
    canvas[:height, :width] = whole[rows][:, columns]
    return canvas


def _padded_size(height: int, width: int, size: int) -> tuple[int, int]:
    """The longest side becomes `size`, then both sides are rounded down to multiples of 8."""
    longest = max(height, width)
    return max(8, height * size // longest // 8 * 8), max(8, width * size // longest // 8 * 8)


def _to_tensor(image: Image.Image) -> Tensor:
    return normalise(tv.pil_to_tensor(image).float() / 255)


@dataclass(frozen=True)
class Augmentation:
    """How training pairs are varied; not part of either paper's recipe."""

    area: tuple[float, float] = (0.4, 1.0)
    """Share of the picture that a crop keeps."""
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
    """A random view of a picture and its mask: (3, size, size) normalised and (size, size) of 0, 1, 255.

    Keeps at least 16 pixels of foreground, or falls back to the whole picture, squashed; one without any is varied all
    the same. Pixels that a rotation brings in from outside are the mean colour, and ignored in the mask.
    """
    picture, labels = _geometry(image, mask, size, rng, settings)
    return _to_tensor(_colours(picture, rng, settings)), labels


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
            picture = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
            if angle:
                picture = picture.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_FILL)
            break
    else:
        labels = square_mask(mask, size)
        picture = image.resize((size, size), Image.Resampling.BILINEAR)
    if flip:
        return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), labels.flip(-1)
    return picture, labels


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
