"""Exports read back: by pycocotools, by shapely, and as the documentation of YOLO and labelme says."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from scipy import ndimage

from fewseg.core.errors import InvalidImage, InvalidMask, InvalidOption, OutputError
from fewseg.formats import FORMATS, ExportOptions, MaskRecord, export_masks
from fewseg.formats.polygons import MAX_CHANGE, one_ring, regions, signed_area
from fewseg.formats.rle import rle_of_mask, rle_of_regions
from helpers.colour_method import iou


def blobs(seed: int, width: int, height: int, scale: float, share: float) -> np.ndarray:
    """A random mask: smooth for a large scale, noise for a small one."""
    field = np.random.default_rng(seed).standard_normal((height, width))
    field = ndimage.gaussian_filter(field, scale) if scale else field
    return field >= np.quantile(field, 1 - share)


MASKS = st.builds(
    blobs,
    seed=st.integers(0, 2**32),
    width=st.integers(1, 90),
    height=st.integers(1, 70),
    scale=st.sampled_from([0, 0.7, 2, 5, 12]),
    share=st.floats(0.02, 0.98),
)


def by_centres(shape: tuple[int, int], polygons: list[Any]) -> np.ndarray:
    """Pixels whose centre lies inside: shapely decides, point by point."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    return shapely.contains_xy(shapely.MultiPolygon(polygons), x + 0.5, y + 0.5)


@settings(max_examples=25, deadline=None)
@given(MASKS)
def test_exact_polygons_are_the_mask(mask: np.ndarray) -> None:
    found = regions(mask)
    assert all(region.is_valid for region in found)
    assert len(found) == ndimage.label(mask)[1]  # 4-connected
    assert sum(region.area for region in found) == mask.sum()
    holes = ndimage.label(np.pad(~mask, 1, constant_values=True), np.ones((3, 3)))[1] - 1
    assert sum(len(region.interiors) for region in found) >= holes  # those that touch at corners are several
    np.testing.assert_array_equal(by_centres(mask.shape, found), mask)
    if found:
        again = rle_of_regions(found, (mask.shape[1], mask.shape[0]))
        assert again["counts"] == rle_of_mask(np.ascontiguousarray(mask))["counts"]


@settings(max_examples=25, deadline=None)
@given(MASKS, st.floats(0.3, 5))
def test_simplified_polygons_keep_what_they_promise(mask: np.ndarray, tolerance: float) -> None:
    exact, simple = regions(mask), regions(mask, tolerance=tolerance)
    assert all(region.is_valid for region in simple)
    assert len(simple) == len(exact)
    whole, changed = shapely.MultiPolygon(exact), shapely.MultiPolygon(simple)
    assert whole.symmetric_difference(changed).area <= (MAX_CHANGE / (1 - MAX_CHANGE)) * whole.area
    for region in simple:
        corners = shapely.points(np.concatenate([np.asarray(r.coords) for r in (region.exterior, *region.interiors)]))
        assert shapely.distance(corners, whole.boundary).max() <= tolerance
    if mask.any():
        assert iou(by_centres(mask.shape, simple), mask) >= 0.98


@pytest.mark.parametrize("seed", range(6))
def test_default_polygons_are_small_and_near(seed: int) -> None:
    mask = blobs(seed, 400, 300, 18, 0.4)
    exact, simple = regions(mask), regions(mask, tolerance=ExportOptions().tolerance)
    found = np.zeros_like(mask)
    for region in simple:  # by Pillow's rule, on a grid four times as fine
        canvas = Image.new("1", (1600, 1200))
        ImageDraw.Draw(canvas).polygon([tuple(4 * p) for p in one_ring(region)], fill=1, outline=0)
        found |= np.asarray(canvas).reshape(300, 4, 400, 4).mean((1, 3)) >= 0.5
    assert iou(found, mask) >= 0.99
    assert sum(map(shapely.get_num_coordinates, simple)) < 0.5 * sum(map(shapely.get_num_coordinates, exact))


@settings(max_examples=15, deadline=None)
@given(MASKS)
def test_a_cut_outline_encloses_the_same_area(mask: np.ndarray) -> None:
    for region in regions(mask):
        ring = one_ring(region)
        assert signed_area(ring) == pytest.approx(region.area)
        assert len(ring) >= 4


def test_small_regions_and_holes_are_dropped() -> None:
    mask = np.zeros((40, 40), bool)
    mask[5:25, 5:25] = True
    mask[10, 10] = False  # a hole of one pixel
    mask[15:18, 15:18] = False
    mask[30:32, 30:32] = True
    assert [len(r.interiors) for r in regions(mask)] == [2, 0]
    (kept,) = regions(mask, min_area=5)
    assert kept.area == 400 - 9


# ---------------------------------------------------------------------------------------------------- whole exports


LABELS = ("cell", 'größe: "x" 🐈', "empty")


def records(folder: Path, count: int = 3) -> Iterator[MaskRecord]:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        width, height = 120 + 10 * i, 90
        image = folder / f"p{i}.jpg"
        if not image.exists():
            Image.fromarray(np.full((height, width, 3), 60 + i, np.uint8)).save(image)
        first = blobs(i, width, height, 8, 0.3)
        masks = {LABELS[0]: first, LABELS[1]: ~first & blobs(i + 9, width, height, 6, 0.5)}
        masks[LABELS[2]] = np.zeros((height, width), bool)
        present = {LABELS[1]: i != 1}
        yield MaskRecord(f"p{i}", (width, height), masks, {LABELS[0]: 0.9 - 0.1 * i}, present, image, f"in/p{i}.jpg")


def load_coco(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("split", [False, True])
def test_coco_by_pycocotools(tmp_path: Path, split: bool) -> None:
    given_records = list(records(tmp_path / "pictures"))
    report = export_masks(
        given_records, tmp_path, ["coco", "coco-rle"], labels=LABELS, options=ExportOptions(split=split)
    )
    assert (report.images, report.files, report.annotations) == (3, 2, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["coco.json", "coco_rle.json", "pictures"]
    for name in ("coco", "coco_rle"):
        coco = load_coco(tmp_path / f"{name}.json")
        assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(LABELS)
        assert [i["file_name"] for i in coco.loadImgs(coco.getImgIds())] == ["in/p0.jpg", "in/p1.jpg", "in/p2.jpg"]
        for image_id, record in zip(coco.getImgIds(), given_records, strict=True):
            for category, (label, mask) in enumerate(record.masks.items(), 1):
                anns = coco.loadAnns(coco.getAnnIds(imgIds=image_id, catIds=category))
                there = mask.any() and record.present.get(label, True)
                parts = (ndimage.label(mask)[1] if split else 1) if there else 0
                assert len(anns) == parts
                if not there:
                    continue
                found = np.sum([coco.annToMask(a) for a in anns], 0)
                assert found.max() == 1
                if name == "coco_rle":
                    np.testing.assert_array_equal(found, mask)
                    assert sum(a["area"] for a in anns) == mask.sum()
                else:
                    assert iou(found, mask) >= 0.99
                y, x = mask.nonzero()
                boxes = np.array([a["bbox"] for a in anns])
                edges = [*boxes[:, :2].min(0), *(boxes[:, :2] + boxes[:, 2:]).max(0)]
                assert edges == pytest.approx([x.min(), y.min(), x.max() + 1, y.max() + 1], abs=1)
                assert {a["score"] for a in anns} == {round(record.score(label), 4)}
        with contextlib.redirect_stdout(io.StringIO()):
            again = coco.loadRes(coco.dataset["annotations"])
        assert len(again.anns) == len(coco.anns)


def test_yolo_as_documented(tmp_path: Path) -> None:
    given_records = list(records(tmp_path / "pictures"))
    export_masks(given_records, tmp_path, ["yolo"], labels=LABELS)
    about = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text("utf-8"))
    assert about["names"] == dict(enumerate(LABELS))
    for record in given_records:
        assert (tmp_path / "yolo" / about["train"] / f"{record.name}.jpg").read_bytes() == record.image.read_bytes()
        found = {label: np.zeros(mask.shape, bool) for label, mask in record.masks.items()}
        for line in (tmp_path / "yolo" / "labels" / f"{record.name}.txt").read_text().splitlines():
            number, *values = line.split()
            points = np.array(values, float).reshape(-1, 2)
            assert len(points) >= 3
            assert 0 <= points.min() <= points.max() <= 1
            width, height = record.size
            canvas = Image.new("1", (8 * width, 8 * height))
            ImageDraw.Draw(canvas).polygon([tuple(p * (8 * width, 8 * height)) for p in points], fill=1, outline=0)
            found[LABELS[int(number)]] |= np.asarray(canvas).reshape(height, 8, width, 8).mean((1, 3)) >= 0.5
        for label, mask in record.masks.items():
            if mask.any() and record.present.get(label, True):
                assert iou(found[label], mask) >= 0.985
            else:
                assert not found[label].any()


def test_labelme_as_documented(tmp_path: Path) -> None:
    given_records = list(records(tmp_path / "pictures"))
    for copies in ("needed", "always"):
        export_masks(given_records, tmp_path, ["labelme"], options=ExportOptions(copy_images=copies, tolerance=0))
        for record in given_records:
            path = tmp_path / "labelme" / f"{record.name}.json"
            content = json.loads(path.read_text("utf-8"))
            assert (path.parent / content["imagePath"]).read_bytes() == record.image.read_bytes()
            assert (content["imageWidth"], content["imageHeight"]) == record.size
            shapes = content["shapes"]
            assert all(s["shape_type"] == "polygon" and len(s["points"]) >= 3 for s in shapes)
            area = dict.fromkeys(LABELS, 0.0)
            for shape in shapes:
                area[shape["label"]] += signed_area(np.array(shape["points"]))
            there = {k: m.sum() * record.present.get(k, True) for k, m in record.masks.items()}
            assert area == pytest.approx(there)


def test_geojson_by_shapely(tmp_path: Path) -> None:
    given_records = list(records(tmp_path / "pictures"))
    export_masks(given_records, tmp_path, ["geojson"], options=ExportOptions(tolerance=0, absent=True))
    for record in given_records:
        content = json.loads((tmp_path / "geojson" / f"{record.name}.geojson").read_text())
        assert content["type"] == "FeatureCollection"
        found = {f["properties"]["label"]: shapely.from_geojson(json.dumps(f["geometry"])) for f in content["features"]}
        assert set(found) == set(LABELS[:2])  # the third is empty
        for label, shape in found.items():
            assert shape.is_valid
            assert all(part.exterior.is_ccw and not any(h.is_ccw for h in part.interiors) for part in shape.geoms)
            np.testing.assert_array_equal(by_centres(record.size[::-1], list(shape.geoms)), record.masks[label])


def test_images(tmp_path: Path) -> None:
    given_records = list(records(tmp_path / "pictures", 33))
    seen: list[tuple[int, int, str]] = []
    report = export_masks(
        given_records, tmp_path / "out", ["png", "overlays", "sheet"], total=33, progress=lambda *a: seen.append(a)
    )
    assert report.files == 33 * 4 + 33 + 2
    assert seen[0] == (1, 33, "p0")
    assert seen[-1] == (33, 33, "p32")
    record = given_records[0]
    index = Image.open(tmp_path / "out" / "labels" / "p0.png")
    assert index.mode == "P"
    for i, (label, folder) in enumerate(zip(LABELS, ("cell", "größe_ _x_ _", "empty"), strict=True), 1):
        mask = np.asarray(Image.open(tmp_path / "out" / "masks" / folder / "p0.png"))
        np.testing.assert_array_equal(mask, record.masks[label] * 255)
        np.testing.assert_array_equal(np.asarray(index) == i, record.masks[label])
    assert Image.open(tmp_path / "out" / "overlays" / "p0.jpg").size == record.size
    assert (tmp_path / "out" / "sheet-2.jpg").is_file()
    export_masks(given_records[:2], tmp_path / "out", ["sheet"])
    assert not (tmp_path / "out" / "sheet-2.jpg").exists()


def test_overlapping_masks_go_to_the_surer_label_in_the_index_map(tmp_path: Path) -> None:
    both = np.ones((4, 4), bool)
    record = MaskRecord("a", (4, 4), {"x": both, "y": both}, {"x": 0.9, "y": 0.4})
    export_masks([record], tmp_path, ["png"])
    assert (np.asarray(Image.open(tmp_path / "labels" / "a.png")) == 1).all()


def test_a_failure_leaves_no_half_written_file(tmp_path: Path) -> None:
    def failing() -> Iterator[MaskRecord]:
        yield from records(tmp_path / "pictures", 2)
        raise OutputError("killed")

    out = tmp_path / "out"
    export_masks(records(tmp_path / "pictures", 1), out, ["coco"])
    before = (out / "coco.json").read_bytes()
    with pytest.raises(OutputError, match="killed"):
        export_masks(failing(), out, list(FORMATS))
    assert (out / "coco.json").read_bytes() == before
    assert not (out / "yolo" / "data.yaml").exists()
    assert not [p for p in out.rglob("*") if p.suffix == ".tmp"]


def test_bad_exports(tmp_path: Path) -> None:
    mask = np.ones((4, 6), bool)
    with pytest.raises(InvalidMask, match=r"6x4, the image 4x6"):
        MaskRecord("a", (4, 6), {"x": mask})
    record = MaskRecord("a", (6, 4), {"x": mask})
    with pytest.raises(InvalidOption, match="did you mean 'coco'"):
        export_masks([record], tmp_path, ["cocoo"])
    with pytest.raises(InvalidOption, match="no formats"):
        export_masks([record], tmp_path, [])
    with pytest.raises(InvalidOption, match="two images are called 'a'"):
        export_masks([record, record], tmp_path, ["coco"])
    for name in ("yolo", "overlays"):
        with pytest.raises(InvalidImage, match="needs the image"):
            export_masks([record], tmp_path, [name])
    with pytest.raises(InvalidOption, match="tolerance -1"):
        ExportOptions(tolerance=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        export_masks([record], tmp_path / "file", ["coco"])


def test_absent_labels_are_in_no_format(tmp_path: Path) -> None:
    """Index map and PNG masks hold what the other formats do, and no pixel is lost to a label that is not there."""
    panda, roo = np.zeros((12, 16), bool), np.zeros((12, 16), bool)
    panda[2:8, 2:8], roo[4:11, 4:14] = True, True
    scores, present = {"panda": 0.6, "roo": 0.9}, {"panda": True, "roo": False}
    record = MaskRecord("a", (16, 12), {"panda": panda, "roo": roo}, scores, present)
    for absent in (False, True):
        out = tmp_path / str(absent)
        report = export_masks([record], out, ["png", "coco-rle"], options=ExportOptions(absent=absent))
        assert (report.annotations, report.absent) == (1 + absent, 1 - absent)
        index = np.asarray(Image.open(out / "labels/a.png"))
        np.testing.assert_array_equal(index, np.where(roo & absent, 2, panda))
        written = Image.open(out / "masks/roo/a.png")
        np.testing.assert_array_equal(np.asarray(written) > 0, roo & absent)
        assert written.info == {"label": "roo", "score": "0.9000"}
