"""Which kinds of image files are opened, and which file names are taken for images.

The list is closed: Pillow knows many more formats, some of which it hands to other programs (Ghostscript) or reads with
little-used code. HEIC files are read where `pillow-heif` is installed.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from PIL import features

log = logging.getLogger(__name__)

_ENDINGS: Final = {
    "JPEG": (".jpg", ".jpeg", ".jfif", ".jpe"),  # MPO, two pictures in a .jpg as phones write it, is opened as one
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif"),
}
"""Pillow's name of a format to the endings of its files."""


def _readable() -> dict[str, tuple[str, ...]]:
    """The formats that the libraries here read."""
    found = dict(_ENDINGS)
    if not features.check("avif"):
        del found["AVIF"]
    if find_spec("pillow_heif") is None:
        del found["HEIF"]
    else:
        import pillow_heif

        pillow_heif.register_heif_opener()
    return found


_READABLE: Final = _readable()

FORMATS: Final = tuple(_READABLE)
"""Pillow's names of the formats that are opened; everything else is refused, whatever a file is called."""

SUFFIXES: Final = frozenset(suffix for endings in _READABLE.values() for suffix in endings)
"""File name endings, in lower case, of the images that a folder is searched for."""

MASK_FORMATS: Final = ("PNG", "TIFF", "BMP")
"""Formats of masks: those that keep values exactly, and in which damage shows (`fewseg.images.integrity`)."""

MASK_SUFFIXES: Final = frozenset({".png", ".tif", ".tiff", ".bmp"})
"""File name endings, in lower case, of the masks that a folder is searched for."""

_UNREAD: Final = {
    **dict.fromkeys((".heic", ".heif"), "pip install pillow-heif reads them"),
    ".avif": "pip install --upgrade pillow reads them",
    **dict.fromkeys((".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"), "save them as JPEG or TIFF"),
    **dict.fromkeys((".psd", ".svg", ".eps", ".pdf", ".tga", ".ico", ".exr", ".hdr", ".jxl"), "save them as PNG"),
    **dict.fromkeys((".jpx", ".jpf", ".jpm", ".pcx", ".sgi", ".xcf", ".qoi", ".dds"), "save them as PNG"),
    **dict.fromkeys((".dcm", ".nii", ".mha", ".nrrd", ".czi", ".nd2", ".lif", ".svs", ".ndpi"), "save them as TIFF"),
    **dict.fromkeys((".npy", ".npz", ".h5", ".hdf5"), "save the arrays as PNG or TIFF"),
}
"""Endings of images that are not read, and what to do with them."""


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file is taken for an image: by its ending; hidden ones are not."""
    name = os.path.basename(path)
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")


def unread(names: Iterable[str | os.PathLike[str]]) -> str | None:
    """One line on the files that are images of kinds that are not read; None where there are none.

    >>> unread(["a.psd", "b.psd", "c.png", "notes.txt"])
    '2 .psd (save them as PNG)'
    """
    endings = (Path(name).suffix.lower() for name in names if not Path(name).name.startswith("."))
    counts = Counter(ending for ending in endings if ending in _UNREAD and ending not in SUFFIXES)
    return ", ".join(f"{n} {ending} ({_UNREAD[ending]})" for ending, n in sorted(counts.items())) or None


def tell_unread(folder: str | os.PathLike[str], names: Iterable[str | os.PathLike[str]]) -> None:
    """Log, once while it stays so, which files of a folder are images that are not read."""
    if (line := unread(names)) is not None:
        _tell(os.fspath(folder), line)


@lru_cache(maxsize=4096)
def _tell(folder: str, line: str) -> None:
    log.warning("%s: images of these kinds are not read and left out: %s", folder, line)
