"""Images and masks that are damaged, huge, or something else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from PIL import Image, features

from helpers.bad_cases import FOLDER, Case, damaged, encoded, good_files, picture


def png_of(width: int, height: int, body: bytes = b"", depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG of any claims."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


KINDS: Final = {
    "PNG": "png",
    "JPEG": "jpg",
    "TIFF": "tif",
    "WEBP": "webp",
    "BMP": "bmp",
    "GIF": "gif",
    "JPEG2000": "jp2",
}


def image_cases() -> Iterator[Case]:
    image, mask = picture()
    for kind, suffix in {**KINDS, **({"AVIF": "avif"} if features.check("avif") else {})}.items():
        for what, content in damaged(encoded(image, kind), kind):
            yield Case(f"image {kind} {what}", FOLDER, {f"q/bad.{suffix}": content})
    for kind in ("PNG", "TIFF", "BMP"):
        for what, content in damaged(encoded(mask, kind), f"mask {kind}", flips=3):
            name = "s/red/a." + KINDS[kind]
            yield Case(f"mask {kind} {what}", FOLDER, {"s/red/a.png": content} if kind == "PNG" else {name: content})
    bomb = struct.pack(">I", 40) + b"zTXta\0\0" + zlib.compress(bytes(30_000_000))
    odd = {
        "of 10 gigapixels": png_of(100_000, 100_000),
        "of no size": png_of(0, 0),
        "of depth 3": png_of(4, 4, bytes(100), depth=3),
        "with a text bomb": png_of(4, 4, bytes(100), extra=bomb),
        "that is PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{ } loop\n",
        "that is SVG": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "that is HTML": b"<!doctype html><title>404</title>",
        "that is ZIP": b"PK\x03\x04" + bytes(100),
        "that is a TIFF whose pages are a circle": b"II*\0\x08\0\0\0" + b"\0\0" + b"\x08\0\0\0",
        "that is a TIFF of many strips": b"II*\0\x08\0\0\0\x01\0\x11\x01\x04\0\xff\xff\xff\x7f\x08\0\0\0\0\0\0\0",
    }
    for what, content in odd.items():
        yield Case(f"image {what}", FOLDER, {"q/bad.png": content})
        yield Case(f"example {what}", FOLDER, {"s/red/a.jpg": content})
        yield Case(f"mask {what}", FOLDER, {"s/red/a.png": content})


def mask_cases() -> Iterator[Case]:
    def grey(pixels: Any, dtype: Any = np.uint8) -> bytes:
        return encoded(Image.fromarray(np.asarray(pixels, dtype)), "PNG")

    noise = np.random.default_rng(1).integers(0, 255, (40, 60, 3))
    for what, content in {
        "empty": grey(np.zeros((40, 60))),
        "full": grey(np.full((40, 60), 255)),
        "of another size": grey(np.full((4, 6), 1)),
        "turned": grey(np.eye(60, 40)),
        "noise": grey(noise[..., 0]),
        "colour noise": grey(noise),
        "16 bits": encoded(Image.fromarray(np.full((40, 60), 70, np.uint16)), "PNG"),
        "transparent": encoded(Image.new("RGBA", (60, 40)), "PNG"),
        "all to ignore": grey(np.full((40, 60), 254)),
    }.items():
        yield Case(f"mask {what}", FOLDER, {"s/red/a.png": content})
    for text in ("", "[]", "{}", "null", '{"box": [1, 2]}', '{"box": [9, 9, 1, 1]}', '{"box": [1, 1, 1e400, 9]}',
                 '{"points": [[1, 1, 7]]}', '{"scribble": []}', '{"scribble": [[NaN, 1]]}', "[" * 9000,
                 '[{"box": [0, 0, 9, 9]}' + ', {"box": [0, 0, 9, 9]}' * 5000 + "]"):  # fmt: skip
        files = {"s/red/b.jpg": good_files()["s/red/a.jpg"], "s/red/b.weak.json": text.encode()}
        yield Case(f"marks {text[:30]}", FOLDER, files)
