"""Altered views of an example: other parts, sizes, sides and colours, where examples are too few to show them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fewseg.inference.adaptation.examples import Example

FEW: Final = 8
"""Below this many examples each is seen in two views besides; measured: more examples show enough themselves."""

WEIGHT: Final = 0.5
"""Weight of a view's pixels beside those of the example itself."""

ZOOM_IN: Final = (1.2, 2.2)
"""Range of the factor by which a part is enlarged."""

ZOOM_OUT: Final = (0.5, 0.9)
"""Range of the factor by which the whole is made smaller."""

BRIGHTNESS, COLOUR, GAMMA = 0.25, 0.1, 0.3
"""Largest changes: of all channels together, of each by itself, of the logarithm of gamma."""


@dataclass(frozen=True)
class View:
    """An example as it might have looked."""

    example: Example
    origin: NDArray[np.int64]
    """(h, w): for every pixel, its place among the original's pixels, row by row."""
    zoom: float
    """Factor on the size of the backbone's input."""


def views(example: Example, rng: np.random.Generator) -> list[View]:
    """A part of the example enlarged to its size, and the whole of it made smaller."""
    return [_altered(example, True, rng), _altered(example, False, rng)]


def _altered(example: Example, zoom_in: bool, rng: np.random.Generator) -> View:
    """One view; parts are mirrored, wholes turned besides."""
    mask: NDArray[Any] = example.mask
    height, width = mask.shape
    pixels, origin = example.image.permute(1, 2, 0).numpy(), np.arange(mask.size, dtype=np.int32).reshape(mask.shape)
    factor = rng.uniform(*(ZOOM_IN if zoom_in else ZOOM_OUT))
    size, zoom = (width, height), 1.0
    if zoom_in:
        part = _part_with_foreground(mask, factor, rng)
        pixels, mask, origin = pixels[part], mask[part], origin[part]
    else:
        size, zoom = (max(8, round(width * factor)), max(8, round(height * factor))), factor
    if rng.random() < 0.5:
        pixels, mask, origin = pixels[:, ::-1], mask[:, ::-1], origin[:, ::-1]
    if not zoom_in and (turns := int(rng.integers(4))):
        pixels, mask, origin = (np.rot90(a, turns) for a in (pixels, mask, origin))
        size = size[::-1] if turns % 2 else size
    coloured = _recoloured(_resized(pixels, size, Image.Resampling.BILINEAR), rng)
    nearest = Image.Resampling.NEAREST
    shown = Example(torch.from_numpy(coloured).permute(2, 0, 1), _resized(mask, size, nearest))
    return View(shown, _resized(origin, size, nearest).astype(np.int64), zoom)


def _part_with_foreground(mask: NDArray[np.uint8], factor: float, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a part, smaller by `factor`, that holds a pixel of the foreground (any, where none is)."""
    foreground = np.argwhere(mask == 1)
    middle = foreground[rng.integers(len(foreground))] if len(foreground) else np.array(mask.shape) // 2
    part = []
    for place, whole in zip(middle, mask.shape, strict=True):
        side = min(whole, max(8, int(whole / factor)))
        start = int(np.clip(place - rng.uniform(0.25, 0.75) * side, 0, whole - side))
        part.append(slice(start, start + side))
    return part[0], part[1]


def _recoloured(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """An image (H, W, 3) in another light."""
    gains = rng.uniform(1 - COLOUR, 1 + COLOUR, 3) * rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS)
    bright = np.clip(pixels.astype(np.float32) / 255 * gains.astype(np.float32), 0, 1)
    coloured: NDArray[np.uint8] = (bright ** np.float32(np.exp(rng.uniform(-GAMMA, GAMMA))) * 255).astype(np.uint8)
    return coloured


def _resized(array: NDArray[Any], size: tuple[int, int], how: Image.Resampling) -> NDArray[Any]:
    """An array (H, W) or (H, W, 3) at `size` (width, height)."""
    return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize(size, how))
