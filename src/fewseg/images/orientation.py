"""The one place where images are turned upright: once, and what has been turned carries no tag that says so again."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_TAG: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CARRIERS: Final = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""Where in `info` Pillow keeps what holds the tag, and hands it on to every copy."""


def orientation(image: Image.Image) -> int:
    """EXIF orientation that is still to be applied, 1 (upright) to 8; 1 where there is none or it cannot be read.

    A TIFF is turned by Pillow while it decodes it. Reads no pixels: of a PNG the orientation is known once they are
    decoded, for the tag may stand behind them.
    """
    if image.format == "TIFF":
        return 1
    try:
        found = Image.Image.getexif(image).get(_TAG, 1)  # PNG's own decodes, and would hide what is wrong with that
    except Exception:  # damaged EXIF must not make a sound image unreadable
        return 1
    return found if found in _TURNS else 1


def tiff_orientation(image: Image.Image) -> int:
    """The orientation that Pillow will apply to a TIFF that is not decoded yet; 1 for anything else."""
    found = getattr(image, "tag_v2", {}).get(_TAG, 1) if image.format == "TIFF" else 1
    return found if found in _TURNS else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image as a viewer shows it, without the tag."""
    return _untagged(image.transpose(_TURNS[orientation])) if orientation in _TURNS else image


def as_stored(image: Image.Image) -> Image.Image:
    """A copy of the image that counts as upright as it is: nobody turns it."""
    return _untagged(image.copy())


def _untagged(image: Image.Image) -> Image.Image:
    image.info = {key: value for key, value in image.info.items() if key not in _CARRIERS}
    return image


def upright_size(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) after `upright`."""
    return (size[1], size[0]) if orientation >= 5 else size


def upright_values(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """What `upright` does, for an array (H, W) or (H, W, C) of any type."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)
