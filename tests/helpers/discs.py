"""An image with two discs, and their masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (96, 64)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


A, B = disc(25, 30, 14), disc(70, 30, 12)


def image_file(path: Path, orientation: int = 1) -> Path:
    """A grey image with a red disc at A and a blue one at B."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((SIZE[1], SIZE[0], 3), 128, np.uint8)
    pixels[A], pixels[B] = (220, 30, 30), (40, 60, 230)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif)
    return path
