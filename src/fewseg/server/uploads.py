"""Uploaded images and masks, checked before they are decoded; masks encoded as PNG."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import IO, Final

import numpy as np
from fastapi import Response
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidOption, one_line
from fewseg.images.draw import label_colours
from fewseg.images.encode import encode, index_image, mask_image
from fewseg.images.kinds import FORMATS
from fewseg.images.masks import INSTANCES, MaskValue
from fewseg.images.pages import holds_several
from fewseg.server.api_errors import ApiError
from fewseg.server.limits import Limits

log = logging.getLogger(__name__)

NOTE: Final = "X-Fewseg-Note"
"""Header of what was left out of a request that was answered."""


def open_upload(file: IO[bytes], kind: str, limits: Limits) -> Image.Image:
    """An uploaded image or mask, header read, pixels not decoded yet; raises `ApiError` 413 or 422."""
    start = file.read(1)
    if not start:
        raise ApiError(422, f"the {kind} is empty: send the file's bytes")
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below applies
            image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError:
        raise ApiError(413, f"the {kind} has over {limits.megapixels} megapixels: make it smaller") from None
    except Exception as reason:  # Pillow's readers raise anything on damaged headers
        known = ", ".join(FORMATS)
        raise ApiError(422, f"the {kind}'s file is not a readable image ({_brief(reason)}): send {known}") from None
    if image.width * image.height > limits.pixels:
        size = f"{image.width}x{image.height}"
        raise ApiError(413, f"the {kind} is {size}, over {limits.megapixels} megapixels: make it smaller")
    return image


def tell_several(image: Image.Image, kind: str, notes: list[str] | None) -> None:
    """Note, or log where there are no notes, that only the first of several images in an upload is used."""
    if not holds_several(image):
        return
    text = f"the {kind}'s file has several {'pages' if image.format == 'TIFF' else 'frames'}: only the first is used"
    if notes is None:
        log.warning("%s", text)
    elif text not in notes:
        notes.append(text)


def add_notes(response: Response, notes: Sequence[str]) -> None:
    """Put what clients should know into a header of the response."""
    if notes:
        response.headers[NOTE] = "; ".join(notes)


def _brief(reason: Exception) -> str:
    """The reason on one line, without the address of the file object in Pillow's message."""
    line = one_line(reason)
    return "damaged, or no image format" if "<" in line else line[:200]


def mask_value(text: str | None) -> MaskValue | None:
    """The text `3`, `255,0,0` or `instances` as the `value` of `Segmenter.teach`; raises `InvalidOption`."""
    if text is None or not text.strip():
        return None
    if text.strip() == INSTANCES:
        return INSTANCES
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if any(not 0 <= n <= 65535 for n in numbers) or len(numbers) not in (1, 3):
        raise InvalidOption(f"value {text[:50]!r}: write an index, as 3, a colour, as 255,0,0, or instances")
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else numbers[0]


def mask_png(mask: NDArray[np.bool_]) -> bytes:
    """A mask (H, W) as an 8-bit PNG of 0 and 255."""
    return encode(mask_image(mask), "PNG", compress_level=4)


def index_png(label_map: NDArray[np.uint16], labels: tuple[str, ...]) -> bytes:
    """A label map (H, W) as a palette PNG; 16-bit grey above 255 labels."""
    return encode(index_image(label_map, list(label_colours(labels).values())), "PNG", compress_level=4)
