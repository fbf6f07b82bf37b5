"""Augmentations by name: SCCAN's published one and this project's stronger one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from fewseg.core.prediction import IGNORE
from fewseg.data.episodes.augment import Augmentation
from fewseg.images.transforms import IMAGENET_MEAN, normalise, square_image, square_mask

_FILL: Final = tuple(round(255 * value) for value in IMAGENET_MEAN)
_ATTEMPTS: Final = 8
_MIN_PIXELS: Final = 16


class Views(Protocol):
    """An augmentation of an image together with its mask."""

    def view(
        self, image: Image.Image, mask: NDArray[np.uint8], size: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """(3, size, size) normalised and (size, size) of 0, 1, 255."""


@dataclass(frozen=True)
class ScaledCrops:
    """SCCAN's: random scale, rotation, blur, flip, then a square crop at the image's own resolution.

    Outside the image there is the mean colour, ignored in the mask. Crops with less than 16 pixels of foreground are
    drawn again, and replaced by the squashed image in the end, unless there is none in the whole image.
    """

    scale: tuple[float, float] = (0.9, 1.1)
    """Range of the factor on the image's size; 0.8 to 1.25 for COCO."""
    rotation: float = 10.0
    """Largest rotation in degrees, either way; half of the images are rotated."""
    blur: float = 0.5
    """Probability of a Gaussian blur of about one pixel."""
    flip: float = 0.5
    """Probability of a horizontal flip."""

    def view(
        self, image: Image.Image, mask: NDArray[np.uint8], size: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """See `Views`."""
        empty = not (mask == 1).any()  # a query without its class is varied like any other: nothing must give it away
        for _ in range(_ATTEMPTS):
            crop, labels = self._draw(image, Image.fromarray(mask), size, rng)
            if empty or np.count_nonzero(np.asarray(labels) == 1) >= _MIN_PIXELS:
                pixels = normalise(tv.pil_to_tensor(crop).float() / 255)
                return pixels, torch.from_numpy(np.array(labels)).float()
        return square_image(image, size), square_mask(mask, size)

    def _draw(
        self, image: Image.Image, mask: Image.Image, size: int, rng: np.random.Generator
    ) -> tuple[Image.Image, Image.Image]:
        factor = float(rng.uniform(*self.scale))
        width, height = (max(1, round(side * factor)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        mask = mask.resize((width, height), Image.Resampling.NEAREST)
        if rng.random() < 0.5:
            angle = float(rng.uniform(-self.rotation, self.rotation))
            image = image.rotate(angle, Image.Resampling.BILINEAR, fillcolor=_FILL)
            mask = mask.rotate(angle, Image.Resampling.NEAREST, fillcolor=IGNORE)
        if rng.random() < self.blur:
            image = image.filter(ImageFilter.GaussianBlur(1.0))
        if rng.random() < self.flip:
            image, mask = (part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for part in (image, mask))
        # An image smaller than the crop lies in the middle of it.
        left = int(rng.integers(width - size + 1)) if width > size else (width - size) // 2
        top = int(rng.integers(height - size + 1)) if height > size else (height - size) // 2
        whole = Image.new("RGB", (size, size), _FILL)
        labels = Image.new("L", (size, size), IGNORE)
        whole.paste(image, (-left, -top))
        labels.paste(mask, (-left, -top))
        return whole, labels


VIEWS: Final[dict[str, Views | None]] = {
    "none": None,
    "sccan": ScaledCrops(),
    "sccan-coco": ScaledCrops(scale=(0.8, 1.25)),
    "strong": Augmentation(),
}
"""Augmentations by the name that a training config gives them."""
