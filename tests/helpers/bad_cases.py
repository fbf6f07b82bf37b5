"""Bad inputs for the command line: what a case is, the good files, and damage to them, the same in every run."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

SEGMENT: Final = ("segment", "--input", "q", "--out", "o", "--device", "cpu", "--model-threads", "1")
FOLDER: Final = (*SEGMENT, "--support", "s")


@dataclass(frozen=True)
class Case:
    """One command, and the files that it finds beside good ones."""

    name: str
    arguments: tuple[str, ...]
    """Of `fewseg`; or `load` and a file for `Segmenter.load`."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Content by path."""

    def write(self, folder: Path) -> None:
        """The good files, and those of the case in their places."""
        for name, content in {**good_files(), **self.files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@cache
def picture() -> tuple[Image.Image, Image.Image]:
    """A red square on noise, and its mask of 0 and 255."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(90, 160, (40, 60, 3)).astype(np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    pixels[10:30, 15:40], mask[10:30, 15:40] = (220, 30, 30), 255
    return Image.fromarray(pixels), Image.fromarray(mask)


@cache
def good_files() -> dict[str, bytes]:
    """A support folder `s` and a folder of queries `q`."""
    image, mask = picture()
    return {
        "s/red/a.jpg": encoded(image, "JPEG", quality=95),
        "s/red/a.png": encoded(mask, "PNG"),
        "q/good.png": encoded(image, "PNG"),
        "j/a.jpg": encoded(image, "JPEG", quality=95),
    }


def damaged(content: bytes, seed: str, flips: int = 5) -> Iterator[tuple[str, bytes]]:
    """Cut, flipped, overwritten and exchanged content."""
    drawn = random.Random(seed)
    for share in (0.0, 0.02, 0.3, 0.7, 0.97):
        yield f"cut to {share:.0%}", content[: int(len(content) * share)]
    for number in range(flips):
        broken = bytearray(content)
        broken[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
        yield f"flip {number}", bytes(broken)
    middle = len(content) // 2
    yield "zeros", content[:middle] + bytes(min(500, middle)) + content[middle + min(500, middle) :]
    yield "noise", content[:20] + drawn.randbytes(len(content))
