"""Zip archives: read where they are exports, refused where they would leave their folder or fill the disk."""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.core.errors import FewsegError, InvalidSupport
from fewseg.formats import archives, read_supports
from helpers.colour_method import write_support

EXPORTS = Path(__file__).parent / "exports"


def zipped(folder: Path, path: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "truth" not in file.parts:
                archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("inside", ["", "export-1/"])
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("roboflow/coco-segmentation", "COCO JSON"),
        ("roboflow/yolov8", "YOLO"),
        ("roboflow/png-mask-semantic", "Roboflow masks"),
        ("cvat-for-images-1.1", "CVAT"),
        ("labelme-5", "labelme"),
        ("voc", "VOC"),
    ],
)
def test_archives_of_exports(tmp_path: Path, name: str, kind: str, inside: str) -> None:
    path = zipped(EXPORTS / name, tmp_path / "a.zip", inside)
    supports = read_supports(path, strict=True)
    assert (supports.kind, len(supports.examples)) == (kind, 4)
    truth = EXPORTS / name / "truth" / "classes"
    for example in supports.examples:
        stem = example.image.stem if isinstance(example.image, Path) else "scene_1"
        expected = np.asarray(Image.open(truth / f"{stem}-{example.label}.png")) > 0
        np.testing.assert_array_equal(example.mask() == 1, expected)


def test_an_archive_of_mask_folders(tmp_path: Path) -> None:
    path = zipped(write_support(tmp_path / "support", "red", "blue"), tmp_path / "a.zip")
    assert read_supports(path).labels == ("blue", "red")
    assert archives.unpacked(path) == archives.unpacked(path)


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/evil.png", "a\\..\\..\\evil.png", "C:/evil.png"])
def test_names_that_lead_out_of_the_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(InvalidSupport, match="outside its folder"):
        read_supports(path)
    assert not list(tmp_path.rglob("evil.png"))


def test_links_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = zipped(EXPORTS / "voc", tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("JPEGImages/link.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    assert len(read_supports(path).examples) == 4
    assert "the link JPEGImages/link.png is left out" in caplog.text


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(1 << 20))
    monkeypatch.setattr(archives, "MAX_BYTES", 1 << 19)
    with pytest.raises(InvalidSupport, match="unpacks to more than"):
        read_supports(path)
    monkeypatch.setattr(archives, "MAX_BYTES", 1 << 30)
    monkeypatch.setattr(archives, "MAX_FILES", 0)
    with pytest.raises(InvalidSupport, match="unpacks to more than"):
        read_supports(path)


def test_damaged_archives_give_one_line(tmp_path: Path) -> None:
    raw = zipped(EXPORTS / "cvat-for-images-1.1", tmp_path / "a.zip").read_bytes()
    rng = np.random.default_rng(0)
    for number in range(60):
        data = bytearray(raw)
        for place in rng.integers(0, len(data), 3):
            data[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{number}.zip"
        path.write_bytes(data[: rng.integers(1, len(data))] if number % 3 == 0 else data)
        with contextlib.suppress(FewsegError):  # anything else ends the test
            read_supports(path)


def test_only_files_that_are_read_are_unpacked(tmp_path: Path) -> None:
    path = zipped(EXPORTS / "voc", tmp_path / "a.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("setup.py", "raise SystemExit")
        archive.writestr("__MACOSX/JPEGImages/._scene_1.jpg", b"\0\5\26\7")
    found = {name for _, _, names in os.walk(archives.unpacked(path)) for name in names}
    assert "setup.py" not in found
    assert "._scene_1.jpg" not in found
