"""Images and masks as JPEG and PNG at the size that the page shows."""

from __future__ import annotations

import io
import threading
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidImage, InvalidMask, one_line
from fewseg.images import decode as decoding
from fewseg.images import open_image
from fewseg.images.encode import encode, mask_image
from fewseg.images.orientation import orientation, upright
from fewseg.images.read import fitted
from fewseg.server.project.images import ImageEntry

SIDES: Final = (16, 8192)
"""Least and greatest longest side of an image that is sent, in pixels."""

RENDERING = threading.BoundedSemaphore(2)
"""Limits decoded images and masks, which are large, to two at a time."""


def jpeg(entry: ImageEntry, side: int) -> bytes:
    """The image, upright, its longest side at most `side`; raises `InvalidImage`."""
    with RENDERING:
        image = _decoded(entry, side)
        return encode(fitted(image, side, enlarge=False), "JPEG", quality=88, optimize=False)


def _decoded(image: ImageEntry, side: int) -> Image.Image:
    opened = decoding.open_file(image.path, "image", InvalidImage)
    # A JPEG decodes at 1/2, 1/4 or 1/8 of its size in as much less time.
    if opened.format == "JPEG" and opened.draft(None, (2 * side, 2 * side)) is not None:
        whole = decoding.decode(opened, str(image.path), InvalidImage)
        if whole.mode in ("RGB", "L"):
            return upright(whole.convert("RGB"), orientation(opened))
    return open_image(image.path, at_least=2 * side).image


def png(values: NDArray[np.uint8] | NDArray[np.bool_]) -> bytes:
    """A greyscale PNG of (H, W); bool as 0 and 255."""
    grey = mask_image(values) if values.dtype == np.bool_ else Image.fromarray(values)
    return encode(grey, "PNG", compress_level=1)


def received_mask(body: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H, W) of a PNG that a page sent, opaque white being foreground.

    Raises `InvalidMask` for anything else than an image of `size`, (width, height); nothing larger is decoded.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(body), formats=("PNG",))
        if image.size == size:
            image.load()
    except Exception as error:  # Pillow's readers raise anything on damaged files
        raise InvalidMask(f"the mask is no PNG ({one_line(error)[:100]}): send one of 0 and 255") from None
    if image.size != size:
        raise InvalidMask(
            f"the mask is {image.width}x{image.height}, the image {size[0]}x{size[1]}: send it at the image's size"
        )
    if image.mode in ("LA", "RGBA", "PA") or image.has_transparency_data:
        image = image.convert("RGBA")
        clear = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(clear, image)
    elif image.mode.startswith("I") or image.mode == "F":
        raise InvalidMask(f"the mask has pixels of kind {image.mode}: send an 8-bit PNG of 0 and 255")
    return np.asarray(image.convert("L")) >= 128


def display_size(size: tuple[int, int], side: int | None) -> tuple[int, int]:
    """(width, height) with the longest side at most `side`."""
    if side is None or max(size) <= side:
        return size
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shrunk(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask at another size (width, height): where at least half of a pixel is covered."""
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    image = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
    return np.asarray(image.resize(size, Image.Resampling.BOX)) >= 128
