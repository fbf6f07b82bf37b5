"""Damaged files: the pixels of the whole file, or one line; never others in silence, as far as a format can tell."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewseg.core.errors import FewsegError, InvalidImage, InvalidMask
from fewseg.images import read_image, read_mask
from fewseg.images.kinds import FORMATS, MASK_FORMATS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about damaged tags

IMAGE_FORMATS = ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "PPM", "JPEG2000", "AVIF"]
MASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "PNG": ("L", {}),
    "PNG of a palette": ("P", {}),
    "PNG of one bit": ("1", {}),
    "TIFF": ("L", {}),
    "TIFF of 16 bits": ("I;16", {}),
    "TIFF with deflate": ("L", {"compression": "tiff_adobe_deflate"}),
    "BMP": ("L", {}),
}


def mask() -> np.ndarray:
    y, x = np.mgrid[:30, :44]
    return ((y - 12) ** 2 + (x - 18) ** 2 < 70).astype(np.uint8)


def photograph() -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 56, 3)).astype(np.uint8))


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def flipped(whole: bytes, bit: int) -> bytes:
    return whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :]


@pytest.mark.parametrize("kind", MASKS)
def test_a_flipped_bit_never_gives_another_mask(tmp_path: Path, kind: str) -> None:
    mode, options = MASKS[kind]
    image = Image.fromarray(mask().astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(mask() * 255)
    whole = written(image if mode == "I;16" else image.convert(mode), kind.split(maxsplit=1)[0], **options)
    path, rng = tmp_path / "m", np.random.default_rng(4)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_mask(path), mask())
    bits = {*range(min(150, len(whole)) * 8), *rng.integers(0, len(whole) * 8, 300)}
    inverted = 0
    for bit in bits:
        path.write_bytes(flipped(whole, int(bit)))
        try:
            found = read_mask(path, size=(44, 30))
        except InvalidMask as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
            continue
        if (found == 1 - mask()).all():  # the one bit of a TIFF that says whether 0 is black
            inverted += 1
        else:
            np.testing.assert_array_equal(found, mask(), err_msg=f"{kind}, bit {bit}")
    assert inverted <= kind.startswith("TIFF")


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_cut_files_are_refused(tmp_path: Path, kind: str) -> None:
    whole, path = written(photograph(), kind), tmp_path / "a"
    path.write_bytes(whole)
    read_image(path)
    for kept in np.linspace(1, len(whole) - 20, 40).astype(int):
        path.write_bytes(whole[:kept])
        with pytest.raises(InvalidImage):
            read_image(path)


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_flipped_bits_of_images(tmp_path: Path, kind: str) -> None:
    """PNG tells of each; the others have no checksums, but nothing else than an image or a line comes of it."""
    whole, path = written(photograph(), kind), tmp_path / "a"
    for bit in np.random.default_rng(5).integers(0, len(whole) * 8, 60):
        path.write_bytes(flipped(whole, int(bit)))
        try:
            read_image(path)
        except InvalidImage as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert kind != "PNG"


@pytest.mark.parametrize("opened", [True, False])
def test_damage_is_told_of_files_and_of_pillow_images(tmp_path: Path, opened: bool) -> None:
    whole = written(Image.fromarray(mask() * 255), "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(flipped(whole, 8 * (whole.index(b"IDAT") + 20)))
    for read in (read_image, read_mask):
        with pytest.raises(FewsegError, match="damaged or cut off"):
            read(Image.open(path) if opened else path)


def test_masks_come_in_formats_that_keep_their_values(tmp_path: Path) -> None:
    for kind in set(IMAGE_FORMATS) - set(MASK_FORMATS):
        Image.fromarray(mask() * 255).save(tmp_path / "m", kind)
        for given in (tmp_path / "m", Image.open(tmp_path / "m")):
            with pytest.raises(InvalidMask, match=f"is a {kind}.*as PNG"):
                read_mask(given)


def test_only_documented_formats_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other program is called for a file, whatever its name."""
    from PIL import EpsImagePlugin

    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", never)
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n{ } loop\n")
    for kind, name in (("PCX", "b.png"), ("ICO", "c.png"), ("TGA", "d.tif"), ("SGI", "e.jpg")):
        photograph().save(tmp_path / name, kind)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(InvalidImage, match="not a readable image"):
            read_image(path)
        with pytest.raises(InvalidMask, match="not a readable mask"):
            read_mask(path)
    assert "EPS" not in FORMATS
