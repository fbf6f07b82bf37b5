"""Images of every kind to upright 8-bit RGB.

What is done to which input, once and for all:

- files and Pillow images are turned upright by their EXIF orientation (`fewseg.images.orientation`), and the result
  carries none;
- of animations and files of several pages the first is used, and the log says so;
- transparency is laid over white;
- more than 8 bits are scaled linearly by their depth (`fewseg.images.depth`); floats hold 0..1;
- arrays are (H, W), (H, W, 1 | 3 | 4) or, where that does not fit, channels first; tensors the other way round;
- colour profiles are ignored, as the papers' pipelines do.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np
from PIL import Image, ImageFile

from fewseg.core.errors import InvalidImage
from fewseg.images import decode as decoding
from fewseg.images.decode import MAX_PIXELS, ImageLike
from fewseg.images.depth import not_finite, to_bytes
from fewseg.images.integrity import tells_more_behind_pixels
from fewseg.images.kinds import SUFFIXES
from fewseg.images.masks import read_mask
from fewseg.images.orientation import orientation, tiff_orientation, upright, upright_size
from fewseg.images.pages import tell_rest

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "ImageLike",
    "OpenedImage",
    "open_image",
    "read_image",
    "read_image_size",
    "read_mask",
]

log = logging.getLogger(__name__)

REDUCE_ABOVE: Final = 24_000_000
"""`open_image(at_least=...)` decodes images with more pixels than this at a fraction of their size."""

_BAND: Final = 8_000_000
"""Pixels that are converted at a time when a huge image is made smaller."""


@dataclass(frozen=True)
class OpenedImage:
    """An image ready to be resized to a model's input."""

    image: Image.Image
    """Upright, RGB; smaller than `size` where a huge image was decoded at a fraction of its size."""
    size: tuple[int, int]
    """(width, height) of the whole image, upright."""
    orientation: int
    """EXIF orientation that has been applied: 1 for none."""
    name: str
    """The file, or what to call the image in messages."""


def read_image(image: ImageLike) -> Image.Image:
    """The whole image, upright, as a Pillow RGB image; raises `InvalidImage` naming the file.

    Examples:
        >>> import numpy as np
        >>> read_image(np.zeros((3, 5), np.uint16)).size
        (5, 3)
    """
    return open_image(image).image


def open_image(image: ImageLike, *, at_least: int | None = None, reduce_above: int = REDUCE_ABOVE) -> OpenedImage:
    """The image and its true size; raises `InvalidImage` naming the file.

    With `at_least`, images of more than `reduce_above` pixels are box-averaged to a fraction of their size while
    decoding, each side staying at least that long (or as long as it is): bounded memory, and no difference that a
    resize to a quarter of it would show. Smaller images are never touched, so the papers' preprocessing stays exact.
    """
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        opened = decoding.open_file(image, "image", InvalidImage)
        tell_rest(image, opened)
    elif isinstance(image, Image.Image):
        name, opened = getattr(image, "filename", "") or "the image", image
        decoding.check_pixels(image.size, name, InvalidImage)
    elif isinstance(image, np.ndarray) or decoding.is_tensor(image):
        name, opened = "the image", _from_array(image)
    else:
        raise InvalidImage(f"an image is a path, Pillow image, array or tensor, not a {type(image).__name__}")
    size, drafted = opened.size, None
    if at_least is not None and size[0] * size[1] > reduce_above and isinstance(image, (str, os.PathLike)):
        # JPEG: decodes at 1/2, 1/4 or 1/8
        drafted = opened.draft(None, (min(at_least, size[0]), min(at_least, size[1])))
    by_pillow = tiff_orientation(opened)
    source, opened = opened, decoding.decode(opened, name, InvalidImage)
    turn = orientation(source)
    if drafted is None:
        size = opened.size  # some versions of Pillow turn a TIFF, and its size, only now
    small = _to_rgb(opened, name)(opened) if at_least is None else _reduced(opened, name, at_least, reduce_above)
    return OpenedImage(upright(small, turn), upright_size(size, turn), max(turn, by_pillow), name)


def read_image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(width, height) of a file's image, upright, without decoding it; raises `InvalidImage`."""
    return read_image_header(path)[0]


def read_image_header(path: str | os.PathLike[str]) -> tuple[tuple[int, int], int]:
    """`read_image_size` and the EXIF orientation, without decoding the pixels; raises `InvalidImage`.

    A PNG whose tags stand behind its pixels is decoded.
    """
    with decoding.open_file(path, "image", InvalidImage) as image:
        if isinstance(image, ImageFile.ImageFile) and tells_more_behind_pixels(image):
            decoding.decode(image, os.fspath(path), InvalidImage)
        turn = orientation(image)
        return upright_size(image.size, turn), max(turn, tiff_orientation(image))


def _reduced(image: Image.Image, name: str, at_least: int, reduce_above: int) -> Image.Image:
    """`image` as RGB, averaged over boxes while both sides stay at least `at_least`."""
    to_rgb = _to_rgb(image, name)
    width, height = image.size
    across, down = max(1, width // at_least), max(1, height // at_least)
    if width * height <= reduce_above or across * down == 1:
        return to_rgb(image)
    # In bands, so that never a second image of the full size exists; a box never crosses two bands.
    rows = max(down, _BAND // width // down * down)
    small = Image.new("RGB", (-(-width // across), -(-height // down)))
    for top in range(0, height, rows):
        band = image.crop((0, top, width, min(top + rows, height)))
        small.paste(to_rgb(band).reduce((across, down)), (0, top // down))
    return small


def _to_rgb(image: Image.Image, name: str) -> Callable[[Image.Image], Image.Image]:
    """How to make RGB of `image` or of any part of it."""
    mode = image.mode
    if mode == "RGB" and not image.has_transparency_data:
        return lambda part: part
    if mode.startswith("I") or mode == "F":
        kind = np.dtype(np.uint16 if ";" in mode else np.float32 if mode == "F" else np.int32)
        low, high = cast("tuple[float, float]", image.getextrema())  # one band, so one pair
        scaled = to_bytes(kind, low, high, name)

        def grey(part: Image.Image) -> Image.Image:
            values = np.asarray(part)
            if mode == "F" and not np.isfinite(values).all():  # Pillow's extrema pass NaN over
                raise not_finite(name)
            return Image.fromarray(scaled(values)).convert("RGB")

        return grey
    if image.has_transparency_data:
        return _over_white
    return lambda part: part.convert("RGB")


def _over_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image.getchannel("A"))
    return canvas


def _from_array(image: np.ndarray | torch.Tensor) -> Image.Image:
    """An 8-bit Pillow image of an array or tensor."""
    first = decoding.is_tensor(image)
    values = decoding.to_numpy(image)
    if values.dtype.kind not in "buif":
        raise InvalidImage(f"the image is an array of {values.dtype}: give numbers (uint8, uint16, or float 0..1)")
    values = decoding.channels_last(values, first, (1, 3, 4))
    if values.ndim not in (2, 3):
        raise InvalidImage(f"the image is an array of shape {tuple(image.shape)}: give (H, W), (H, W, 3) or (H, W, 4)")
    decoding.check_pixels((values.shape[1], values.shape[0]), "the image", InvalidImage)
    low, high = values.min().item(), values.max().item()
    values = to_bytes(values.dtype, low, high, "the image")(values)
    return Image.fromarray(np.ascontiguousarray(values))


def fitted(image: Image.Image, side: int, *, enlarge: bool = True) -> Image.Image:
    """The image at the size that just fits a square of `side` pixels; a smaller one only grows with `enlarge`."""
    scale = side / max(image.size)
    if scale >= 1 and not enlarge:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)
