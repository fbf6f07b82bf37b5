"""An image is turned upright once: by whoever reads it first, and by nobody after that."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from fewseg.formats import MaskRecord, export_masks
from fewseg.images import open_image, read_image, read_image_header, read_mask
from fewseg.images.draw import contact_sheet, overlay, overlay_of
from fewseg.images.form_data import _content
from fewseg.images.kinds import SUFFIXES
from fewseg.images.masks import _tell_turn
from fewseg.images.orientation import as_stored, orientation, upright, upright_values
from fewseg.server.page.media import _decoded
from fewseg.server.project.images import scan

ORIENTATIONS = range(1, 9)
LOSSLESS = ("png", "tif", "webp")
TAG = 0x0112


def scene(height: int = 48, width: int = 80) -> np.ndarray:
    """Colours by quarters: no turn or flip gives the same image."""
    pixels = np.full((height, width, 3), 40, np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 30)
    pixels[height // 2 :, : width // 2] = (30, 200, 30)
    pixels[: height // 2, width // 2 :] = (30, 30, 220)
    return pixels


def stored(pixels: np.ndarray, turn: int) -> Image.Image:
    """The pixels as a camera stores them which writes this orientation beside them."""
    back = {6: 8, 8: 6}.get(turn, turn)  # every other turn undoes itself
    return upright(Image.fromarray(pixels), back)


def tagged(path: Path, pixels: np.ndarray, turn: int) -> Path:
    exif = Image.Exif()
    exif[TAG] = turn
    lossless = {"lossless": True} if path.suffix == ".webp" else {}
    quality = {"quality": 95} if path.suffix in (".jpg", ".avif", ".heic") else {}
    stored(pixels, turn).save(path, exif=exif.tobytes(), **lossless, **quality)
    return path


def close(image: Image.Image, pixels: np.ndarray, most: float = 6) -> bool:
    found = np.asarray(image.convert("RGB")).astype(int)
    return found.shape == pixels.shape and np.abs(found - pixels).mean() < most


@pytest.mark.parametrize(
    "ending", [*LOSSLESS, "jpg", *(ending for ending in ("avif", "heic") if f".{ending}" in SUFFIXES)]
)
@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_whoever_reads_it_again_finds_it_upright(tmp_path: Path, ending: str, turn: int) -> None:
    path = tagged(tmp_path / f"a.{ending}", scene(), turn)
    once = read_image(path)
    assert close(once, scene())
    assert once.getexif().get(TAG, 1) == 1
    assert close(read_image(read_image(once)), scene())
    assert read_image_header(path)[0] == once.size
    with Image.open(path) as opened:
        assert close(read_image(opened), scene())
        assert close(read_image(opened.convert("RGB")), scene())
        assert close(read_image(opened.copy()), scene())
    again = io.BytesIO()
    once.save(again, "PNG")
    assert close(read_image(Image.open(again)), scene())


@given(
    turn=st.sampled_from(ORIENTATIONS),
    ending=st.sampled_from(["PNG", "WEBP", "TIFF"]),
    mode=st.sampled_from(["RGB", "L", "RGBA", "P", "1"]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_reading_is_done_after_the_first_time(
    turn: int, ending: str, mode: str, height: int, width: int, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    if ending == "WEBP" and mode in ("P", "1"):
        mode = "RGB"
    whole = Image.fromarray(pixels).convert(mode)
    exif, file = Image.Exif(), io.BytesIO()
    exif[TAG] = turn
    whole.save(file, ending, exif=exif.tobytes(), **({"lossless": True, "exact": True} if ending == "WEBP" else {}))
    expected = upright_values(np.asarray(read_image(whole)), turn)
    once = read_image(Image.open(file))
    np.testing.assert_array_equal(np.asarray(once), expected)
    np.testing.assert_array_equal(np.asarray(read_image(once)), expected)


def test_a_tag_behind_the_pixels_counts(tmp_path: Path) -> None:
    """Some programs write a PNG's EXIF last."""
    path = tagged(tmp_path / "a.png", scene(), 6)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[start : start + 4], "big")
    chunk, rest = data[start : start + length], data[:start] + data[start + length :]
    path.write_bytes(rest[:-12] + chunk + rest[-12:])
    assert read_image_header(path) == ((80, 48), 6)
    assert close(read_image(path), scene())


def test_what_counts_as_it_is_stored_is_not_turned(tmp_path: Path) -> None:
    for ending in ("png", "jpg", "tif"):
        with Image.open(tagged(tmp_path / f"a.{ending}", scene(), 6)) as image:
            as_it_is = as_stored(image)
            assert orientation(as_it_is) == 1
            if ending != "tif":  # which Pillow turns while decoding
                assert read_image(as_it_is).size == (48, 80)


@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_drawings_and_exports_lie_right(tmp_path: Path, turn: int) -> None:
    """Overlays, contact sheets, exports, the page and the client, from the file and from what was read of it."""
    path = tagged(tmp_path / "a.jpg", scene(), turn)
    mask = (scene()[..., 0] > 150).astype(np.uint8)
    for image in (path, read_image(path), open_image(path, at_least=8).image):
        drawn = overlay(image, {"red": mask}, {"red": (255, 255, 255)}, legend=False)
        assert drawn.size == (80, 48)
        assert np.asarray(drawn)[12, 20].min() > 80  # blended with white
        assert close(drawn.crop((0, 28, 80, 48)), scene()[28:])
        sheet = contact_sheet([image], side=80)
        assert np.asarray(sheet)[12, 20, 0] > 150
    assert overlay_of(read_image(path), {"red": mask}).size == (80, 48)
    record = MaskRecord("a", (80, 48), {"red": mask == 1}, image=path, file_name="a.jpg")
    export_masks([record], tmp_path / "out", ["overlays", "sheet", "coco"])
    with Image.open(tmp_path / "out" / "overlays" / "a.jpg") as written:
        assert written.size == (80, 48)
        assert close(written.crop((0, 28, 80, 48)), scene()[28:], 12)
    (entry,) = scan(tmp_path, {}).images[:1]
    assert entry.size == (80, 48)
    for side in (16, 80, 8192):
        shown = _decoded(entry, side)
        assert np.asarray(shown)[shown.height // 4, shown.width // 4, 0] > 150
    with Image.open(path) as opened:
        assert close(Image.open(io.BytesIO(_content(opened)[1])), scene())


@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
@pytest.mark.parametrize("turn", ORIENTATIONS)
def test_masks_of_turned_images(tmp_path: Path, caplog: pytest.LogCaptureFixture, turn: int, ending: str) -> None:
    """With a tag of its own a mask says how it lies; without, what is taken is told unless only one way fits."""
    _tell_turn.cache_clear()
    truth = (scene()[..., 0] > 150).astype(np.uint8)
    image = open_image(tagged(tmp_path / f"a.{ending}", scene(), turn))
    assert read_image_header(tmp_path / f"a.{ending}") == (image.size, image.orientation) == ((80, 48), turn)
    about = {"size": image.size, "orientation": image.orientation, "image": "a"}
    own = tagged(tmp_path / "m.png", truth * 255, turn)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(read_mask(own, **about), truth)
        assert not caplog.records
        np.testing.assert_array_equal(read_mask(truth, **about), truth)
        told = [record.getMessage() for record in caplog.records]
        assert len(told) == (turn in (2, 3, 4))
        assert all(line.startswith("a is") and "upright" in line for line in told)
        if turn >= 5:
            as_it_is = np.asarray(stored(truth, turn))
            np.testing.assert_array_equal(read_mask(as_it_is, **about), truth)
            assert "before turning" in caplog.text


def test_tags_in_other_places(tmp_path: Path) -> None:
    """ImageMagick's text chunk and XMP."""
    exif = Image.Exif()
    exif[TAG] = 8
    data = exif.tobytes()
    about = PngImagePlugin.PngInfo()
    about.add_text("Raw profile type exif", f"\nexif\n{len(data):8}\n{data.hex()}\n", zip=True)
    stored(scene(), 8).save(tmp_path / "a.png", pnginfo=about)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="8"/></x:xmpmeta>'
    stored(scene(), 8).save(tmp_path / "b.webp", lossless=True, xmp=xmp)
    for name in ("a.png", "b.webp"):
        once = read_image(tmp_path / name)
        assert close(once, scene())
        assert close(read_image(once), scene())
