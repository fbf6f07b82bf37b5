"""Damaged files: the pixels of the whole file, or one line; never others in silence, as far as a format can tell."""

from __future__ import annotations

import hashlib
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
    "TIFF with LZW": ("L", {"compression": "tiff_lzw"}),
    "TIFF with PackBits": ("L", {"compression": "packbits"}),
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
    inverted = silent = 0
    for bit in bits:
        path.write_bytes(flipped(whole, int(bit)))
        try:
            found = read_mask(path, size=(44, 30))
        except InvalidMask as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
            continue
        if (found == 1 - mask()).all():  # the one bit of a TIFF that says whether 0 is black
            inverted += 1
        elif kind == "TIFF with LZW":
            silent += bool((found != mask()).any())
        else:
            np.testing.assert_array_equal(found, mask(), err_msg=f"{kind}, bit {bit}")
    assert inverted <= kind.startswith("TIFF")
    assert silent <= 3  # of 1808 bits: a code of another string as long, which no table holds yet


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


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits"])
@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "YCbCr"])
@pytest.mark.parametrize("options", [{}, {"strip_size": 700}, {"tiffinfo": {317: 2}}])
def test_whole_tiffs_are_read(tmp_path: Path, compression: str, mode: str, options: dict[str, Any]) -> None:
    """Strips of a few rows, and differences of neighbours, which LZW has."""
    if options.get("tiffinfo") and (compression != "tiff_lzw" or mode == "1"):
        pytest.skip("differences are for LZW")
    values = np.random.default_rng(0).integers(0, 4, (61, 47, 3)).astype(np.uint8)
    image = Image.fromarray(values[..., 0].astype(np.uint16) * 999) if mode == "I;16" else Image.fromarray(values)
    image = image if mode == "I;16" else image.convert(mode)
    image.save(tmp_path / "a.tif", compression=compression, **options)
    assert read_image(tmp_path / "a.tif").size == (47, 61)


def listed(folder: Path, *names: str, start: str = "") -> None:
    """Write the checksums of files as `sha256sum` does."""
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {start}{name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


@pytest.mark.parametrize("kind", IMAGE_FORMATS)
def test_checksums_that_are_written_down_tell_of_every_flipped_bit(tmp_path: Path, kind: str) -> None:
    whole, path = written(photograph(), kind), tmp_path / "a b.img"
    path.write_bytes(whole)
    listed(tmp_path, "a b.img")
    true = read_image(path)
    for bit in np.random.default_rng(5).integers(0, len(whole) * 8, 30):
        path.write_bytes(flipped(whole, int(bit)))
        with pytest.raises(InvalidImage, match=r"a b.img (is damaged|cannot be opened|is not|is \d|: )"):
            read_image(path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_image(path), true)


def test_checksums_of_masks_and_of_folders_below(tmp_path: Path) -> None:
    (tmp_path / "red").mkdir()
    for name in ("a.png", "other.png"):
        Image.fromarray(mask() * 255).save(tmp_path / "red" / name)
    listed(tmp_path, "red/a.png", start="./")
    read_mask(tmp_path / "red/a.png")
    Image.fromarray(mask()[::-1] * 255).save(tmp_path / "red/a.png")
    for read, error in ((read_mask, InvalidMask), (read_image, InvalidImage)):
        with pytest.raises(error, match=r"its checksum is not the one in .*SHA256SUMS"):
            read(tmp_path / "red/a.png")
        read(tmp_path / "red/other.png")  # which is not listed
    listed(tmp_path, "red/a.png")  # seen at once
    read_mask(tmp_path / "red/a.png")


@pytest.mark.parametrize("content", [b"", b"no list\n", b"\xff\xfe\0", b"0" * 64 + b"  \n", b"0" * 70])
def test_other_files_of_that_name_change_nothing(tmp_path: Path, content: bytes) -> None:
    Image.fromarray(mask() * 255).save(tmp_path / "a.png")
    (tmp_path / "SHA256SUMS").write_bytes(content)
    read_mask(tmp_path / "a.png")
