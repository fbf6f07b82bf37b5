"""From images and masks to what a model takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fewseg.core.errors import InvalidMask, InvalidOption
from fewseg.images import ImageLike, OpenedImage, open_image, read_mask
from fewseg.images.doubts import MEANT, mask_doubt
from fewseg.images.masks import INSTANCES, MaskValue, read_instances
from fewseg.images.transforms import square_image, square_mask
from fewseg.inference.adaptation.examples import working_pixels

log = logging.getLogger(__name__)

OVERSAMPLING: Final = 4
"""Huge images are decoded at a fraction of their size, but never below this many times the model's input."""


@dataclass(frozen=True)
class PreparedImage:
    """An image as the model takes it."""

    inputs: tuple[Tensor, ...]
    """(3, s, s), normalised, one for every input size."""
    size: tuple[int, int]
    """(width, height) of the image, upright."""
    pixels: Tensor | None = None
    """(3, H, W), uint8, for labels that are adapted; None where none is."""


def input_sizes(side: int, tta_scales: Sequence[float]) -> tuple[int, ...]:
    """The input sizes, in pixels, that factors of `side` come to: multiples of 32, which every pyramid divides evenly.

    Raises `InvalidOption` for no factor or an impossible one.
    """
    if isinstance(tta_scales, (int, float, str)):
        raise InvalidOption(f"tta_scales {tta_scales!r}: give a list of factors, e.g. ({tta_scales},)")
    factors = tuple(float(s) for s in tta_scales)
    if not factors or not all(0.1 <= s <= 8 for s in factors):
        raise InvalidOption(
            f"tta_scales {' '.join(map(str, factors)) or '()'}: give one or more factors from 0.1 to 8, e.g. 1 1.25"
        )
    sizes = [side if s == 1 else max(32, round(side * s / 32) * 32) for s in factors]
    return tuple(dict.fromkeys(sizes))


def open_for(image: ImageLike, sizes: Sequence[int], *, at_least: int = 0) -> OpenedImage:
    """The image, large enough for inputs of `sizes` and sides of `at_least`; raises `InvalidImage`."""
    return open_image(image, at_least=max(at_least, OVERSAMPLING * max(sizes)))


def prepare(image: OpenedImage, sizes: Sequence[int], *, pixels: bool = False) -> PreparedImage:
    """The image at each of the input sizes, and with `pixels` as adapted labels need it."""
    inputs = tuple(square_image(image.image, size) for size in sizes)
    return PreparedImage(inputs, image.size, working_pixels(image.image) if pixels else None)


def example_mask(
    image: OpenedImage, mask: ImageLike, value: MaskValue | None, *, check: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
    """An example's mask (H, W) as `read_mask` gives it, and its instance map (H, W) where it is one.

    With `check` a warning says what is doubtful about the mask. Raises `InvalidMask`.
    """
    place: dict[str, Any] = {"size": image.size, "orientation": image.orientation, "image": image.name}
    instances = read_instances(mask, **place) if value == INSTANCES else None
    foreground = read_mask(mask, value=value, **place) if instances is None else (instances > 0).astype(np.uint8)
    if check and (doubt := mask_doubt(foreground)):
        log.warning("the mask of %s %s; %s", image.name, doubt, MEANT)
    return foreground, instances


def prepare_mask(mask: NDArray[np.uint8], sizes: Sequence[int], name: str = "the mask") -> tuple[Tensor, ...]:
    """The mask (H, W) at each of the input sizes, (s, s) each.

    Raises `InvalidMask`, which calls it `name`, where no foreground is left at one of them.
    """
    made = tuple(square_mask(mask, size) for size in sizes)
    for size, small in zip(sizes, made, strict=True):
        if not (small == 1).any():
            raise InvalidMask(
                f"the foreground in {name} vanishes at the model's input size of {size}: mark more of the object, or "
                "crop image and mask around it"
            )
    return made
