"""Files of several images: the first is used, and the log says so; or every page is an image."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.images import read_image, read_image_size, read_mask
from fewseg.images.pages import read_pages


def frames(count: int = 4, mode: str = "RGB") -> list[Image.Image]:
    shades = [Image.fromarray(np.full((30, 40), 20 + 50 * i, np.uint8)) for i in range(count)]
    if mode == "I;16":
        return [Image.fromarray(np.asarray(shade).astype(np.uint16) * 257) for shade in shades]
    return [shade.convert(mode) for shade in shades]


def saved(path: Path, images: list[Image.Image]) -> Path:
    images[0].save(path, save_all=True, append_images=images[1:])
    return path


@pytest.mark.parametrize("ending", ["tif", "gif", "webp", "png", "avif"])
def test_the_first_is_used_and_the_log_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, ending: str
) -> None:
    path = saved(tmp_path / f"a.{ending}", frames())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert abs(int(np.asarray(read_image(path))[15, 20, 0]) - 20) < 4
        assert read_image_size(path) == (40, 30)
    (told,) = [record.getMessage() for record in caplog.records]
    assert f"a.{ending}: only the first of its 4 {'pages' if ending == 'tif' else 'frames'} is used" in told


def test_masks_of_several_pages(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(tmp_path / "m.tif", [Image.fromarray(np.eye(30, 40, dtype=np.uint8))] * 3)
    assert read_mask(path).sum() == 30
    assert "first of its 3 pages" in caplog.text


def test_one_page_and_a_phones_second_picture_are_not_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames()[0].save(tmp_path / "a.tif")
    frames()[0].save(tmp_path / "b.jpg", "MPO", save_all=True, append_images=frames()[1:])
    for name in ("a.tif", "b.jpg"):
        assert read_image(tmp_path / name).size == (40, 30)
    assert not caplog.records


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "1", "P", "RGBA", "F"])
def test_pages_of_every_mode(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "a.tif", frames(mode=mode))
    pages = list(read_pages(path))
    assert [page.mode for page in pages] == [mode] * 4
    for page, frame in zip(pages, frames(mode=mode), strict=True):
        np.testing.assert_array_equal(np.asarray(page), np.asarray(frame))


@pytest.mark.parametrize("ending", ["gif", "webp", "png", "avif"])
def test_frames_of_animations(tmp_path: Path, ending: str) -> None:
    shades = [int(np.asarray(read_image(f))[15, 20, 0]) for f in read_pages(saved(tmp_path / f"a.{ending}", frames()))]
    assert np.abs(np.array(shades) - [20, 70, 120, 170]).max() < 5


def test_turned_pages_and_thumbnails(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    first, *others = frames()
    first.save(tmp_path / "a.tif", save_all=True, append_images=others, exif=exif)
    assert next(read_pages(tmp_path / "a.tif")).size == (30, 40)
    others[0].encoderinfo = {"tiffinfo": {254: 1}}
    first.save(tmp_path / "b.tif", save_all=True, append_images=others[:1])
    assert len(list(read_pages(tmp_path / "b.tif"))) == 1
