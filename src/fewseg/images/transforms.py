"""Images and masks to the square tensors a method takes.

`square_image` and `square_mask` are DCAMA's and HSNet's preprocessing exactly: Pillow's antialiased bilinear for the
image, torch's `nearest` from the original for the mask. `padded_image` and `padded_mask` are SCCAN's.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from fewseg.core.choices import Resize as Resize
from fewseg.core.prediction import IGNORE

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(images: Tensor) -> Tensor:
    """(..., 3, H, W) in [0, 1] to ImageNet-normalised."""
    mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def square_image(image: Image.Image, size: int) -> Tensor:
    """A Pillow RGB image, squashed to (3, size, size), float32, ImageNet-normalised."""
    return to_tensor(tv.resize(image, [size, size], interpolation=tv.InterpolationMode.BILINEAR))


def square_mask(mask: NDArray[np.uint8], size: int) -> Tensor:
    """A mask (H, W) of 0, 1 and 255, squashed to (size, size), float32, the same values: nearest from the original."""
    # Cached masks are read-only, which torch warns about: nothing here writes to them, but a copy is cheap.
    whole = torch.from_numpy(np.array(mask, dtype=np.uint8))
    return F.interpolate(whole[None, None], (size, size), mode="nearest")[0, 0].float()


def padded_image(image: Image.Image, size: int) -> Tensor:
    """A Pillow RGB image at the top left of a black (3, size, size), float32, ImageNet-normalised.

    OpenCV's `INTER_LINEAR` on float pixels: bilinear between pixel centres, no antialiasing.
    """
    # OpenCV computes coordinates in double precision; in float32 they would be off by 1e-5 of a pixel.
    pixels = tv.pil_to_tensor(image).double()[None]
    inside = resize_by_centres(pixels, padded_size(image.height, image.width, size))
    canvas = torch.zeros(3, size, size)
    canvas[:, : inside.shape[-2], : inside.shape[-1]] = inside[0].float() / 255
    return normalise(canvas)


def padded_mask(mask: NDArray[np.uint8], size: int) -> Tensor:
    """A mask (H, W) of 0, 1 and 255 as `padded_image` places its image, 255 outside; (size, size), float32.

    OpenCV's `INTER_NEAREST`. Torch's, in float32, is a pixel off where the place in the source is a whole number.
    """
    whole = torch.from_numpy(np.array(mask, dtype=np.uint8))
    height, width = padded_size(mask.shape[0], mask.shape[1], size)
    rows, columns = (torch.arange(n) * was // n for n, was in zip((height, width), mask.shape, strict=True))
    canvas = torch.full((size, size), float(IGNORE))
    canvas[:height, :width] = whole[rows][:, columns]
    return canvas


def padded_size(height: int, width: int, size: int) -> tuple[int, int]:
    """The longest side becomes `size`, then both sides are rounded down to multiples of 8."""
    longest = max(height, width)
    return max(8, height * size // longest // 8 * 8), max(8, width * size // longest // 8 * 8)


def to_tensor(image: Image.Image) -> Tensor:
    return normalise(tv.pil_to_tensor(image).float() / 255)


def resize_by_centres(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with pixel centres aligned, as images are resized; (B, C, H, W) to (B, C, *size)."""
    return F.interpolate(x, size, mode="bilinear", align_corners=False)
