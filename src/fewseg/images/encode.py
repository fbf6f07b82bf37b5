"""Images to the bytes of PNG and JPEG files; masks and label maps to images."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fewseg.core.files import make_folder, write_bytes

Encoding: TypeAlias = Literal["PNG", "JPEG"]


def encode(image: Image.Image, kind: Encoding, **options: Any) -> bytes:
    """The bytes of a file of the image; `options` are those of Pillow's writer."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def save_image(path: Path, image: Image.Image, kind: Encoding, **options: Any) -> None:
    """Write the image atomically, in a folder that is made if missing; raises `OutputError`.

    Encoded in memory first: Pillow's own writers report a full disk as "encoder error -2".
    """
    encoded = encode(image, kind, **options)
    make_folder(path.parent)
    write_bytes(path, encoded)


def save_mask(path: Path, mask: NDArray[Any], label: str, score: float, **options: Any) -> None:
    """Write a mask (H, W) as a PNG of 0 and 255 that carries its label and score as text; raises `OutputError`."""
    about = PngInfo()
    about.add_text("label", label)
    about.add_text("score", f"{score:.4f}")
    save_image(path, mask_image(mask), "PNG", pnginfo=about, **options)


def mask_image(mask: NDArray[Any]) -> Image.Image:
    """A mask (H, W) as an 8-bit image of 0 and 255."""
    return Image.fromarray(np.asarray(mask, np.bool_).view(np.uint8) * np.uint8(255))


def index_image(label_map: NDArray[np.unsignedinteger[Any]], colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    """A label map (H, W) as a palette image: background black, label i in `colours[i - 1]`.

    With more than 255 labels it is 16-bit grey, for palettes hold no more.
    """
    if len(colours) > 255:
        return Image.fromarray(label_map)
    image = Image.fromarray(label_map.astype(np.uint8))
    image.putpalette([0, 0, 0, *(value for colour in colours for value in colour)])
    return image
