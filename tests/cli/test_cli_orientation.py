"""`fewseg segment` on photographs of every EXIF orientation: upright from the examples to overlays and annotations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg import cli
from fewseg.images.orientation import upright

DISC = (0.3, 0.25)
SIZE = (120, 90)


def photograph() -> tuple[np.ndarray, np.ndarray]:
    """A green disc at the upper left of a grey image, upright, and its mask."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    mask = (y - DISC[1] * SIZE[1] - 8) ** 2 + (x - DISC[0] * SIZE[0]) ** 2 < 18**2
    pixels = np.full((*mask.shape, 3), 120, np.uint8)
    pixels[mask] = (30, 190, 40)
    return pixels, mask


def saved(path: Path, pixels: np.ndarray, turn: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = turn
    upright(Image.fromarray(pixels), {6: 8, 8: 6}.get(turn, turn)).save(path, exif=exif.tobytes(), quality=95)
    return path


@pytest.mark.parametrize("more", [(), ("--tile", "64"), ("--pages",)])
def test_every_orientation(tmp_path: Path, more: tuple[str, ...], caplog: pytest.LogCaptureFixture) -> None:
    pixels, mask = photograph()
    for turn in range(1, 9):
        saved(tmp_path / "in" / f"{turn}.jpg", pixels, turn)
    for turn in (1, 3, 6):
        saved(tmp_path / "support" / "disc" / f"{turn}.jpg", pixels, turn)
        Image.fromarray(mask).save(tmp_path / "support" / "disc" / f"{turn}.png")
    fixed = ["segment", "--support", str(tmp_path / "support"), "--input", str(tmp_path / "in")]
    formats = ("--formats", "coco", "labelme", "sheet")
    assert cli.main([*fixed, "--out", str(tmp_path / "out"), "--device", "cpu", *formats, *more]) == 0
    out = tmp_path / "out"
    first = np.asarray(Image.open(out / "masks/disc/1.png")) > 0
    overlay = np.asarray(Image.open(out / "overlays/1.jpg")).astype(int)
    assert first.shape == mask.shape
    for turn in range(2, 9):
        found = np.asarray(Image.open(out / f"masks/disc/{turn}.png")) > 0
        assert (found != first).mean() < 0.02  # JPEG differs a little from turn to turn
        drawn = np.asarray(Image.open(out / f"overlays/{turn}.jpg")).astype(int)
        assert np.abs(drawn - overlay).mean() < 6
    listed = json.loads((out / "coco.json").read_text())["images"]
    assert {(entry["width"], entry["height"]) for entry in listed} == {SIZE}
    assert (out / "sheet.jpg").is_file()
    assert "2 examples were turned upright (EXIF)" in caplog.text
    assert "3.jpg is turned upright (EXIF orientation 3), and its mask fits it as stored, too" in caplog.text
    with Image.open(out / "examples.jpg") as sheet:
        assert sheet.width > 2 * 360
