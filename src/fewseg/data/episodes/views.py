"""Augmentations by name: SCCAN's published one and this project's stronger one."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fewseg.data.episodes.augment import Augmentation
from fewseg.data.episodes.scaled_crops import ScaledCrops


class Views(Protocol):
    """An augmentation of an image together with its mask."""

    def view(
        self, image: Image.Image, mask: NDArray[np.uint8], size: int, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """(3, size, size) normalised and (size, size) of 0, 1, 255."""


VIEWS: Final[dict[str, Views | None]] = {
    "none": None,
    "sccan": ScaledCrops(),
    "sccan-coco": ScaledCrops(scale=(0.8, 1.25)),
    "strong": Augmentation(),
}
"""Augmentations by the name that a training config gives them."""
