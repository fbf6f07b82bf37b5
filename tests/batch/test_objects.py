"""Single objects in the output folder: instance maps, tables, and the formats made from them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from fewseg.batch import BatchOptions, segment_files
from fewseg.core.errors import InvalidMask, InvalidOption
from fewseg.formats.convert import write_results
from fewseg.formats.records import ExportOptions, MaskRecord
from fewseg.formats.write import export_masks
from fewseg.inference.objects.found import find_objects
from fewseg.inference.segmenter import Segmenter
from helpers.colour_method import ColourMethod
from helpers.touching import chain, grid


def painted(mask: np.ndarray) -> Image.Image:
    pixels = np.full((*mask.shape, 3), 128, np.uint8)
    pixels[mask > 0] = (220, 30, 30)
    return Image.fromarray(pixels)


COUNTS = {"none": 0, "one": 1, "three": 3}


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for name, count in COUNTS.items():
        mask = np.pad(chain(count, 14.0), 10) if count else np.zeros((64, 64), np.uint8)
        painted(mask).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def segmenter() -> Segmenter:
    made = Segmenter(ColourMethod(), device="cpu")
    discs = grid(2, 3, 14.0)
    made.teach("disc", painted(discs), discs, value="instances")
    return made


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def labels_of(out: Path) -> dict[str, Any]:
    content = json.loads((out / "results.json").read_text())
    return {Path(entry["picture"]).stem: entry["labels"]["disc"] for entry in content["pictures"]}


def test_tables_and_instance_maps(queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = segment_files(segmenter(), [queries], out, options=BatchOptions(pixel_size=0.5))
    assert report.counts == {"disc": 4}
    assert {Path(row["image"]).stem: int(row["count"]) for row in table(out / "counts.csv")} == COUNTS
    rows = table(out / "objects.csv")
    assert [(Path(row["image"]).stem, row["object"]) for row in rows] == [
        ("one", "1"),
        ("three", "1"),
        ("three", "2"),
        ("three", "3"),
    ]
    found = segmenter().segment(queries / "three.png").objects["disc"]
    written = np.asarray(Image.open(out / "objects/disc/three.png"))
    np.testing.assert_array_equal(written, found.map)
    for row, one in zip(rows[1:], found, strict=True):
        assert int(row["area_px"]) == one.area == (written == one.number).sum()
        assert float(row["area"]) == pytest.approx(one.area / 4)
        assert tuple(int(row[side]) for side in ("left", "top", "right", "bottom")) == one.box
        centre = float(row["centroid_x"]), float(row["centroid_y"])
        assert centre == pytest.approx(one.centroid, abs=0.01)
        assert float(row["score"]) == pytest.approx(one.score, abs=1e-4)
    assert labels_of(out)["three"]["count"] == 3


def test_a_second_run_keeps_the_tables_and_other_kinds_mean_doing_it_again(queries: Path, tmp_path: Path) -> None:
    out, made = tmp_path / "out", segmenter()
    segment_files(made, [queries], out)
    before = (out / "objects.csv").read_bytes()
    report = segment_files(made, [queries], out)
    assert (report.done, report.skipped, report.counts) == (0, 3, {"disc": 4})
    assert (out / "objects.csv").read_bytes() == before
    (out / "objects/disc/one.png").unlink()
    assert segment_files(made, [queries], out).done == 1
    made.set_kind("disc", "stuff")
    report = segment_files(made, [queries], out)
    assert (report.done, report.counts) == (3, {})
    assert not (out / "objects.csv").exists()
    assert not (out / "objects").exists() or not list((out / "objects").rglob("*.png"))
    assert "objects" not in labels_of(out)["one"]


def test_without_objects(queries: Path, tmp_path: Path) -> None:
    report = segment_files(segmenter(), [queries], tmp_path / "out", options=BatchOptions(objects=False))
    assert report.counts == {}
    assert not (tmp_path / "out/objects.csv").exists()
    with pytest.raises(InvalidOption, match="--pixel-size"):
        BatchOptions(objects=False, pixel_size=1.0).check()
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InvalidOption, match="--pixel-size"):
            BatchOptions(pixel_size=wrong).check()


def test_tiles_write_objects_too(queries: Path, tmp_path: Path) -> None:
    large = np.pad(np.kron(chain(3, 14.0), np.ones((2, 2), np.int32)), 40)
    (tmp_path / "large").mkdir()
    painted(large).save(tmp_path / "large/a.png")
    report = segment_files(segmenter(), [tmp_path / "large"], tmp_path / "out", options=BatchOptions(tile=128))
    assert report.counts == {"disc": 3}


def test_annotations_of_single_objects(queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment_files(segmenter(), [queries], out)
    write_results(out, ["coco", "coco-rle", "yolo", "labelme", "geojson"])
    found = segmenter().segment(queries / "three.png").objects["disc"]
    for name in ("coco", "coco_rle"):
        coco = COCO(out / f"{name}.json")
        (image,) = (entry for entry in coco.loadImgs(coco.getImgIds()) if entry["file_name"] == "three.png")
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image["id"]))
        assert len(annotations) == 3
        for annotation, one in zip(annotations, found, strict=True):
            drawn = coco.annToMask(annotation) == 1
            assert (drawn & one.mask).sum() / (drawn | one.mask).sum() > (0.999 if name == "coco_rle" else 0.9)
            assert annotation["score"] == pytest.approx(one.score, abs=1e-4)
    assert len((out / "yolo/labels/three.txt").read_text().splitlines()) == 3
    assert len(json.loads((out / "labelme/three.json").read_text())["shapes"]) == 3
    features = json.loads((out / "geojson/three.geojson").read_text())["features"]
    assert [feature["properties"]["object"] for feature in features] == [1, 2, 3]
    assert {feature["geometry"]["type"] for feature in features} == {"Polygon"}


def test_objects_in_several_pieces_stay_one_annotation(tmp_path: Path) -> None:
    numbered = np.zeros((40, 60), np.int32)
    numbered[5:15, 5:25] = 1
    numbered[20:22, 5:9] = 1
    numbered[5:15, 40:50] = 2
    found = find_objects(numbered > 0)
    assert len(found) == 3
    objects = type(found)(numbered, scores=[0.75, 0.5])
    record = MaskRecord("a", (60, 40), {"cell": numbered > 0}, objects={"cell": objects})
    export_masks([record], tmp_path, ["coco", "yolo", "labelme"], options=ExportOptions(copy_images="never"))
    annotations = json.loads((tmp_path / "coco.json").read_text())["annotations"]
    assert [(a["score"], len(a["segmentation"])) for a in annotations] == [(0.75, 2), (0.5, 1)]
    assert len((tmp_path / "yolo/labels/a.txt").read_text().splitlines()) == 2
    shapes = json.loads((tmp_path / "labelme/a.json").read_text())["shapes"]
    assert [shape["group_id"] for shape in shapes] == [1, 1, None]


def test_instance_maps_that_were_changed_are_told(queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment_files(segmenter(), [queries], out)
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(out / "objects/disc/one.png")
    with pytest.raises(InvalidMask, match=r"other objects than results\.json"):
        write_results(out, ["coco"])
