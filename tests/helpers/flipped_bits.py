"""How many of 200 files with one flipped bit each are read as other pixels without an error, by format.

    PYTHONPATH=src:tests python -m helpers.flipped_bits [--flips 200] [--sums]

With `--sums` the folder has a `SHA256SUMS`. The image is a photograph's likeness: shapes, shading and noise.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from fewseg.core.errors import FewsegError
from fewseg.images import read_image, read_mask

IMAGES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "PNG": ("PNG", {}),
    "TIFF, deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF, LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "TIFF, PackBits": ("TIFF", {"compression": "packbits"}),
    "TIFF, uncompressed": ("TIFF", {}),
    "BMP": ("BMP", {}),
    "JPEG": ("JPEG", {"quality": 90}),
    "JPEG, progressive": ("JPEG", {"quality": 90, "progressive": True}),
    "JPEG, restart markers": ("JPEG", {"quality": 90, "restart_marker_rows": 1}),
    "GIF": ("GIF", {}),
    "WebP": ("WEBP", {"quality": 90}),
    "WebP, lossless": ("WEBP", {"lossless": True}),
    "AVIF": ("AVIF", {"quality": 80}),
    "JPEG 2000": ("JPEG2000", {}),
    "PPM": ("PPM", {}),
}
MASKS: Final = ["PNG", "TIFF, deflate", "TIFF, LZW", "TIFF, PackBits", "TIFF, uncompressed", "BMP"]


def photograph(width: int = 160, height: int = 120) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    values = np.stack([x + 40, y + 60, (x + y) // 2 + 30], -1).astype(float)
    values[(y - 50) ** 2 + (x - 70) ** 2 < 900] = (200, 60, 40)
    values += np.random.default_rng(0).normal(0, 4, values.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def mask(width: int = 160, height: int = 120) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return ((y - 50) ** 2 + (x - 70) ** 2 < 900).astype(np.uint8) * 255


def flips(name: str, image: Image.Image, count: int, folder: Path, *, masks: bool, sums: bool) -> tuple[int, int, int]:
    """Of so many flips at random: how many were told, changed no pixel, and gave other pixels in silence."""
    kind, options = IMAGES[name]
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    whole, path = buffer.getvalue(), folder / "file"
    if sums:
        (folder / "SHA256SUMS").write_text(f"{hashlib.sha256(whole).hexdigest()}  file\n")
    path.write_bytes(whole)

    def read() -> np.ndarray:
        return read_mask(path) if masks else np.asarray(read_image(path))

    true, told, same, silent = read(), 0, 0, 0
    for bit in np.random.default_rng(1).integers(0, 8 * len(whole), count):
        path.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
        try:
            found = read()
        except FewsegError:
            told += 1
        else:
            same += np.array_equal(found, true)
            silent += not np.array_equal(found, true)
    return told, same, silent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--sums", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for masks, names, image in ((False, [*IMAGES], photograph()), (True, MASKS, Image.fromarray(mask()))):
        kind = "masks" if masks else "images"
        print(f"| {kind} | told | no pixel changes | other pixels in silence |\n|---|---|---|---|")
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                counts = flips(name, image, args.flips, Path(folder), masks=masks, sums=args.sums)
            print(f"| {name} | {' | '.join(map(str, counts))} |", flush=True)


if __name__ == "__main__":
    main()
