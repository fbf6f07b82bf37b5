"""Files of several images: pages of a TIFF, frames of an animation. Everywhere else the first is used."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import lru_cache

from PIL import Image

from fewseg.core.errors import InvalidImage
from fewseg.images import decode as decoding
from fewseg.images.orientation import orientation, upright

log = logging.getLogger(__name__)

_REDUCED = 254
"""Tag of a TIFF's page whose lowest bit says that it is a thumbnail of another."""


def holds_several(image: Image.Image) -> bool:
    """Whether an opened file holds several images; the small second picture in a phone's JPEG does not count."""
    return bool(getattr(image, "is_animated", False)) and image.format != "MPO"


def read_pages(path: str | os.PathLike[str]) -> Iterator[Image.Image]:
    """Every page or frame, upright, in the mode in which it is stored; thumbnails are left out.

    Raises `InvalidImage` naming the file and the page.
    """
    with decoding.open_file(path, "image", InvalidImage) as image:
        for number in range(getattr(image, "n_frames", 1)):
            name = f"page {number} of {os.fspath(path)}"
            try:
                image.seek(number)
            except Exception as reason:  # Pillow's readers raise anything on damaged files
                raise InvalidImage(f"{name} cannot be read: get the whole file again") from reason
            if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_REDUCED, 0) & 1:
                continue
            decoding.check_pixels(image.size, name, InvalidImage)
            page = decoding.decode(image, name, InvalidImage)
            yield upright(page, orientation(image)).copy()


def tell_rest(path: str | os.PathLike[str], image: Image.Image) -> None:
    """Log, once for each file, that only the first of several images in an opened file is used."""
    if holds_several(image):
        _tell(os.fspath(path), image.format == "TIFF")


@lru_cache(maxsize=4096)
def _tell(path: str, pages: bool) -> None:
    try:
        with decoding.open_file(path, "image", InvalidImage) as image:
            count = f"{getattr(image, 'n_frames', '')} "
    except Exception:  # the first is sound, and reading the others is not asked for
        count = "several "
    what = "pages" if pages else "frames"
    log.warning(
        "%s: only the first of its %s%s is used; fewseg segment --pages segments every one of --input",
        path,
        count,
        what,
    )
