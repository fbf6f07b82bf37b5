"""What is somebody's own among results stays: other files of the same names, and annotations corrected by hand."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import yaml

from fewseg import cli
from fewseg.core.errors import InvalidMask, InvalidOption, OutputError
from fewseg.formats import MaskRecord, export_masks
from helpers.discs import SIZE, A, B, image_file


def record(folder: Path, name: str = "a") -> MaskRecord:
    path = image_file(folder / "p" / f"{name}.jpg")
    return MaskRecord(name, SIZE, {"red": A, "blue": B}, image=path, file_name=f"{name}.jpg")


@pytest.mark.parametrize(
    ("kind", "file"), [("coco", "coco.json"), ("coco-rle", "coco_rle.json"), ("yolo", "yolo/data.yaml")]
)
def test_files_of_others_are_not_written_over(tmp_path: Path, kind: str, file: str) -> None:
    mine = tmp_path / "out" / file
    mine.parent.mkdir(parents=True)
    mine.write_text('{"images": [], "annotations": []}')
    with pytest.raises(OutputError, match="was not written by fewseg: choose another output folder"):
        export_masks([record(tmp_path)], tmp_path / "out", ["png", kind])
    assert mine.read_text() == '{"images": [], "annotations": []}'
    assert not (tmp_path / "out" / "masks").exists(), "said before anything is written"
    mine.unlink()
    for _ in range(2):
        export_masks([record(tmp_path)], tmp_path / "out", [kind])


def test_the_command_says_so_before_it_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "coco.json").write_text("{}")
    image_file(tmp_path / "p" / "a.jpg")
    words = ["--support", str(tmp_path / "nothing"), "--input", str(tmp_path / "p"), "--out", str(tmp_path)]
    assert cli.main(["segment", *words, "--formats", "coco"]) == 2
    assert "coco.json was not written by fewseg" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["labelme", "geojson"])
def test_corrections_stay(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    ending = "json" if kind == "labelme" else kind
    corrected, other, foreign = (tmp_path / kind / f"{name}.{ending}" for name in "abc")
    both = [record(tmp_path, "a"), record(tmp_path, "b")]
    assert export_masks(both, tmp_path, [kind]).files == 2
    content = json.loads(corrected.read_text())
    if kind == "labelme":
        content["shapes"][0]["points"][0] = [1.0, 2.0]
        corrected.write_text(json.dumps({**content, "version": "6.0.0", "imageData": "AAAA"}, indent=2))
        saved = json.loads(other.read_text())  # opened and saved, nothing moved
        other.write_text(json.dumps({**saved, "version": "6.0.0"}, indent=2))
    else:
        content["features"][0]["properties"]["label"] = "rose"
        corrected.write_text(json.dumps(content))
    foreign.write_text(json.dumps({"shapes": [], "features": [], "imagePath": "c.jpg"}))
    before, own = corrected.read_bytes(), foreign.read_bytes()
    smaller = [MaskRecord(n, SIZE, {"red": B}, image=tmp_path / "p" / f"{n}.jpg") for n in ("a", "b")]
    with caplog.at_level(logging.WARNING):
        report = export_masks([*smaller, record(tmp_path, "c")], tmp_path, [kind])
    assert report.files == 1
    assert (corrected.read_bytes(), foreign.read_bytes()) == (before, own)
    assert "blue" not in other.read_text()
    assert len([line for line in caplog.messages if "was changed by hand and stays" in line]) == 2


def test_yolos_validation_images_stay_where_they_were_moved(tmp_path: Path) -> None:
    both = [record(tmp_path, "a"), record(tmp_path, "b")]
    export_masks(both, tmp_path, ["yolo"])
    root = tmp_path / "yolo"
    for part, ending in (("images", "jpg"), ("labels", "txt")):
        (root / "val" / part).mkdir(parents=True)
        (root / part / f"b.{ending}").rename(root / "val" / part / f"b.{ending}")
    notes = root / "a.txt"
    notes.write_text("mine")
    about = root / "data.yaml"
    about.write_text(about.read_text().replace("val: images", "val: val/images"))
    export_masks([both[0], MaskRecord("b", SIZE, {"red": A}, image=both[1].image)], tmp_path, ["yolo"])
    found = yaml.safe_load(about.read_text())
    assert (found["train"], found["val"]) == ("images", "val/images")
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("b.*")) == ["val/images/b.jpg", "val/labels/b.txt"]
    assert notes.read_text() == "mine", "only folders of labels hold labels"
    assert len((root / "val" / "labels" / "b.txt").read_text().splitlines()) == 1, "its labels are brought up to date"


def test_masks_are_bool_and_names_are_of_files() -> None:
    with pytest.raises(InvalidMask, match=r"'red' in a is uint8: give bool, e\.g\. mask == 1"):
        MaskRecord("a", SIZE, {"red": A.astype(np.uint8)})
    for name in ("../a", "x/a", "x\\a", "", ".."):
        with pytest.raises(InvalidOption, match="give a name without folders"):
            MaskRecord(name, SIZE, {"red": A})
