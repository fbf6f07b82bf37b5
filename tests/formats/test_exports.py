"""Exports as annotation tools write them: every reader gives the masks that were drawn, pixel for pixel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.core.errors import InvalidSupport
from fewseg.formats import Supports, read_supports

EXPORTS = Path(__file__).parent / "exports"

Found = dict[tuple[str, str], np.ndarray]
"""Image's name and label to the pixels of the label."""


def export(tmp_path: Path, name: str) -> Path:
    """A copy of an export without the true masks, which are masks in folders, too."""
    target = tmp_path / name.replace("/", "_")
    shutil.copytree(EXPORTS / name, target, ignore=shutil.ignore_patterns("truth", "*-truth"))
    return target


def found(supports: Supports) -> Found:
    masks = {}
    for example in supports.examples:
        name = example.image.stem if isinstance(example.image, Path) else "scene_1"  # labelme's, within its file
        masks[name, example.label] = example.mask() == 1
    return masks


def truth(name: str) -> Found:
    files = (EXPORTS / name / "truth" / "classes").glob("*.png")
    return {
        (image, label): np.asarray(Image.open(file)) > 0
        for file in files
        for image, _, label in [file.stem.rpartition("-")]
    }


def assert_same(masks: Found, expected: Found) -> None:
    assert set(masks) == set(expected)
    for key, mask in expected.items():
        np.testing.assert_array_equal(masks[key], mask, err_msg=str(key))


@pytest.mark.parametrize(
    ("name", "file", "kind"),
    [
        ("cvat-for-images-1.1", "", "CVAT"),
        ("cvat-for-images-1.1", "annotations.xml", "CVAT"),
        ("cvat-for-video-1.1", "", "CVAT"),
        ("cvat-segmentation-mask-1.1", "", "VOC"),
        ("cvat-segmentation-mask-1.1", "archive.zip", "VOC"),
        ("label-studio", "project.json", "Label Studio"),
        ("label-studio", "postgres-key-order.json", "Label Studio"),
        ("label-studio", "json-min.json", "Label Studio"),
        ("labelme-5", "", "labelme"),
        ("roboflow/coco-segmentation", "", "COCO JSON"),
        ("roboflow/png-mask-semantic", "", "Roboflow masks"),
        ("roboflow/yolov8", "", "YOLO"),
        ("qupath", "", "GeoJSON"),
        ("via-2", "", "VIA"),
        ("via-2", "via_export_json.json", "VIA"),
        ("via-2", "via_export_csv.csv", "VIA"),
        ("via-2", "via_project.json", "VIA"),
        ("voc", "", "VOC"),
        ("yolo-seg", "", "YOLO"),
        ("yolo-seg", "data.yaml", "YOLO"),
    ],
)
def test_masks_are_those_that_were_drawn(tmp_path: Path, name: str, file: str, kind: str) -> None:
    supports = read_supports(export(tmp_path, name) / file, strict=True)
    assert supports.kind == kind
    assert_same(found(supports), truth(name))


def test_labels_and_shapes_that_are_tags_of_their_own(tmp_path: Path) -> None:
    masks = found(read_supports(export(tmp_path, "label-studio") / "separate-labels.json"))
    assert_same(masks, {key: m for key, m in truth("label-studio").items() if key == ("scene_1", "leaf")})


def test_turned_boxes_and_ellipses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    masks = found(read_supports(export(tmp_path, "label-studio") / "boxes-and-ellipses.json"))
    assert "rectangles count as masks of their whole area" in caplog.text
    folder = EXPORTS / "label-studio" / "boxes-and-ellipses-truth"
    for label in ("leaf", "stone"):
        parts = [np.asarray(Image.open(path)) > 0 for path in folder.glob(f"scene_2-*-{label}.png")]
        np.testing.assert_array_equal(masks["scene_2", label], np.any(parts, axis=0))


@pytest.mark.parametrize("variant", sorted(p.name for p in (EXPORTS / "yolo-seg/data-yaml-variants").glob("*.yaml")))
def test_spellings_of_data_yaml(tmp_path: Path, variant: str) -> None:
    """Windows' paths, other computers' paths, lists of files, names as a list, by number, or not at all."""
    root = export(tmp_path, "yolo-seg")
    shutil.copy(root / "data-yaml-variants" / variant, root / "data.yaml")
    shutil.copy(root / "data-yaml-variants" / "train.txt", root / "train.txt")
    masks = found(read_supports(root))
    names = {"class_0": "leaf", "class_1": "stone"}
    assert_same({(image, names.get(label, label)): mask for (image, label), mask in masks.items()}, truth("yolo-seg"))


@pytest.mark.parametrize(
    ("lines", "scene"),
    [
        ("closed", 1),
        ("crlf-bom", 1),
        ("duplicate", 1),
        ("parts-as-lines", 2),
        ("out-of-range", 2),
        ("with-confidence", 1),
    ],
)
def test_odd_lines_of_yolo(tmp_path: Path, lines: str, scene: int) -> None:
    root = export(tmp_path, "yolo-seg")
    for file in (root / "labels" / "train").iterdir():
        file.unlink()
    shutil.copy(root / "odd-lines" / f"{lines}.txt", root / "labels" / "train" / f"scene_{scene}.txt")
    expected, masks = truth("yolo-seg"), found(read_supports(root, strict=True))
    assert masks
    for key, mask in masks.items():
        if lines == "out-of-range":  # another stone, which leaves the image by 0.3 pixels
            assert mask[18:, 30:].all()
        else:
            np.testing.assert_array_equal(mask, expected[key])


def test_boxes_among_yolos_polygons_are_prompts(tmp_path: Path) -> None:
    root = export(tmp_path, "yolo-seg")
    shutil.copy(root / "odd-lines" / "box-and-polygon.txt", root / "labels" / "train" / "scene_1.txt")
    examples = {(e.image.stem, e.label): e for e in read_supports(root).examples if isinstance(e.image, Path)}
    (prompt,) = examples["scene_1", "stone"].load_prompts() if examples["scene_1", "stone"].load_prompts else ()
    assert prompt.box == pytest.approx((22, 12, 36, 24))
    np.testing.assert_array_equal(examples["scene_1", "leaf"].mask() == 1, truth("yolo-seg")["scene_1", "leaf"])


@pytest.mark.parametrize("name", ["coco-segmentation", "yolov8", "png-mask-semantic"])
@pytest.mark.parametrize(("split", "scene"), [("train", "scene_1"), ("val", "scene_2"), ("valid", "scene_2")])
def test_a_part_of_roboflows_exports(tmp_path: Path, name: str, split: str, scene: str) -> None:
    root = export(tmp_path, f"roboflow/{name}")
    masks = found(read_supports(root, split=split))
    assert_same(masks, {k: m for k, m in truth(f"roboflow/{name}").items() if k[0].startswith(scene)})
    folder = "train" if split == "train" else "valid"
    if name != "yolov8":
        assert_same(found(read_supports(root / folder)), masks)
    with pytest.raises(InvalidSupport, match=r"no part 'test'|test: "):
        read_supports(root, split="test")


def test_a_split_of_voc(tmp_path: Path) -> None:
    root = export(tmp_path, "voc")
    masks = found(read_supports(root, split="val"))
    assert {image for image, _ in masks} == {"scene_2"}
    with pytest.raises(InvalidSupport, match="there are train, val"):
        read_supports(root, split="test")


def test_augmented_versions_of_an_image_count_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = export(tmp_path, "roboflow/coco-segmentation") / "train"
    content = json.loads((root / "_annotations.coco.json").read_text())
    name = content["images"][0]["file_name"]
    other = name.replace(".rf.0f1e", ".rf.ffff")
    shutil.copy(root / name, root / other)
    content["images"].append({**content["images"][0], "id": 9, "file_name": other})
    content["annotations"] += [{**a, "id": 90 + a["id"], "image_id": 9} for a in content["annotations"]]
    (root / "_annotations.coco.json").write_text(json.dumps(content))
    assert [e.image for e in read_supports(root).examples] == [root / name] * 2
    assert "further augmented versions" in caplog.text


def test_a_classification_is_no_list_of_mask_values(tmp_path: Path) -> None:
    root = export(tmp_path, "roboflow/png-mask-semantic") / "train"
    (root / "_classes.csv").write_text("filename, leaf, stone\na.jpg, 1, 0\n")
    with pytest.raises(InvalidSupport, match="export 'Semantic Segmentation Masks'"):
        read_supports(root)


def test_what_is_no_mask_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, file, words in (
        (
            "cvat-for-images-1.1",
            "",
            ["(lines, points, tags ...) (3)", "boxes count as masks"],
        ),
        ("labelme-5", "", ["shapes that cover no area (lines, points ...) (3)"]),
        ("via-2", "via_export_json.json", ["regions that cover no area (points, lines) (2)", "without a class (1)"]),
        (
            "label-studio",
            "project.json",
            [
                "were cancelled (1)",
                "predictions (1)",
                "older annotations of an image (1)",
                "(key points, lines ...) (1)",
            ],
        ),
        ("yolo-seg", "", ["images without labels (2)"]),
    ):
        caplog.clear()
        read_supports(export(tmp_path, name) / file)
        for each in words:
            assert each in caplog.text, each


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ({"dm_format_version": "1.0", "items": []}, "Datumaro"),
        ({"size": {"height": 1, "width": 1}, "objects": []}, "Supervisely"),
        ({"imgHeight": 1, "imgWidth": 1, "objects": []}, "Cityscapes"),
        ({"image": {}, "annotations": []}, "Segment Anything"),
        ({"project": {}, "metadata": {}, "view": {}}, "VIA 3"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path: Path, content: object, name: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InvalidSupport, match=name):
        read_supports(tmp_path / "a.json")


def test_nothing_that_a_data_set_says_is_run(tmp_path: Path) -> None:
    root = export(tmp_path, "yolo-seg")
    mark = tmp_path / "run"
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(f"{text}\ndownload: |\n  open({str(mark)!r}, 'w').write('x')\n")
    assert len(read_supports(root).examples) == 4
    (root / "data.yaml").write_text(f"{text}\nx: !!python/object/apply:pathlib.Path.touch [{str(mark)!r}]\n")
    with pytest.raises(InvalidSupport, match="no YAML"):
        read_supports(root)
    assert not mark.exists()
