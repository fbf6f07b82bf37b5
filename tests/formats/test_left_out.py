"""A bad entry is left out with a line that names it, and the rest is taught; `strict` makes it an error."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewseg import cli
from fewseg.core.errors import FewsegError, InvalidSupport
from fewseg.formats import read_supports
from helpers.discs import SIZE, image_file

GOOD = [20, 20, 40, 20, 40, 40, 20, 40]


def write(path: Path, content: Any, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    return path


def coco(path: Path, *shapes: Any, files: tuple[str, ...] = ("a.jpg", "b.jpg", "c.jpg")) -> Path:
    """A label `red`, the n-th shape in the n-th image; what is a dict with `image_id` is an annotation itself."""
    annotations = [
        {"id": i, "image_id": i, "category_id": 1, "segmentation": shape}
        if not (isinstance(shape, dict) and "id" in shape)
        else shape
        for i, shape in enumerate(shapes, 1)
    ]
    images = [{"id": i, "file_name": f, "width": SIZE[0], "height": SIZE[1]} for i, f in enumerate(files, 1)]
    return write(path, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "red"}]})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        image_file(tmp_path / f"{name}.jpg")
    return tmp_path


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ([[5, 5, 9, 9]], "annotation 2 of"),
        ([[5, 5, 5, 5, 5, 5]], "annotation 2 of"),
        ([[500, 5, 540, 5, 540, 50]], "annotation 2 of"),
        ([[1, 2, 3, 4, 5, 6, 7]], "annotation 2 of"),
        ({"size": [64, 96], "counts": [6000, 145]}, "do not add up"),
        ({"size": [64, 96], "counts": [2**62] * 4 + [6144]}, "do not add up"),
        ({"size": [10, 10], "counts": [50, 50]}, "run lengths for 10 x 10 pixels"),
        ("nonsense", "neither polygons nor run lengths"),
        ({"id": 2, "image_id": 7, "category_id": 1, "segmentation": [GOOD]}, "annotation 2 of .* is of image 7"),
        ({"id": 2, "image_id": 2, "category_id": 9, "segmentation": [GOOD]}, "annotation 2 of .* is of category 9"),
        ({"id": 2, "segmentation": [GOOD]}, "without image_id"),
        ({"id": 2, "image_id": 2, "category_id": 1, "bbox": [1, 2, -5, 5]}, "annotation 2 of"),
        ({"id": 2, "image_id": 2, "category_id": 1, "bbox": [900, 2, 5, 5]}, "box 900, 2, 905, 7 in an image of"),
    ],
)
def test_a_bad_annotation(folder: Path, caplog: pytest.LogCaptureFixture, bad: Any, words: str) -> None:
    path = coco(folder / "set.json", [GOOD], bad, [GOOD])
    examples = read_supports(path).examples
    assert [Path(str(e.image)).name for e in examples] == ["a.jpg", "c.jpg"]
    assert "left out: " in caplog.text
    with pytest.raises(FewsegError, match=words) as caught:
        read_supports(path, strict=True)
    assert str(caught.value) in caplog.text
    assert len(str(caught.value)) < 400


def test_a_bad_shape_beside_a_good_one(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The rest of the image is taught."""
    bad = {"id": 2, "image_id": 1, "category_id": 1, "segmentation": {"size": [64, 96], "counts": [1, 2]}}
    (example,) = read_supports(coco(folder / "set.json", [GOOD], bad)).examples
    assert (example.mask() == 1).sum() == 400
    assert "annotation 2 of" in caplog.text


def test_images_that_are_missing_damaged_or_of_another_size(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = coco(folder / "set.json", [GOOD], [GOOD], [GOOD])
    (folder / "a.jpg").unlink()
    (folder / "b.jpg").write_bytes((folder / "b.jpg").read_bytes()[:500])
    for shots in (0, 1):
        caplog.clear()
        assert [Path(str(e.image)).name for e in read_supports(path, shots=shots).examples] == ["c.jpg"]
        assert "image a.jpg of" in caplog.text
        assert "b.jpg" in caplog.text
    Image.new("RGB", (50, 50)).save(folder / "b.jpg")
    caplog.clear()
    assert len(read_supports(path).examples) == 1
    assert "is 96x64 there, and the image is 50x50" in caplog.text


def test_nothing_that_is_left_is_an_error(folder: Path) -> None:
    with pytest.raises(InvalidSupport, match="covers no pixel"):
        read_supports(coco(folder / "set.json", [[5, 5, 9, 9]]))
    content = json.loads((folder / "set.json").read_text())
    content["categories"].append({"id": 2, "name": "blue"})
    content["annotations"].append({"id": 2, "image_id": 2, "category_id": 2, "segmentation": [GOOD]})
    path = write(folder / "set.json", content)
    assert read_supports(path).labels == ("blue",)
    with pytest.raises(InvalidSupport, match="covers no pixel"):
        read_supports(path, labels=["red"])


def test_a_label_without_examples_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = json.loads(coco(folder / "set.json", [GOOD], [[5, 5, 9, 9]]).read_text())
    content["categories"].append({"id": 2, "name": "blue"})
    content["annotations"][1]["category_id"] = 2
    assert read_supports(write(folder / "set.json", content)).labels == ("red",)
    assert "label 'blue' is not taught" in caplog.text


def test_empty_segmentations_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert len(read_supports(coco(folder / "set.json", [GOOD], [], [[]])).examples) == 1
    assert "annotations without segmentation and box (2)" in caplog.text


def test_many_bad_entries_do_not_flood(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    bad = [{"id": i, "image_id": 99, "category_id": 1, "segmentation": [GOOD]} for i in range(100)]
    read_supports(coco(folder / "set.json", [GOOD], *bad))
    assert len(caplog.records) == 21
    assert "80 more entries" in caplog.text


def test_a_stated_size_costs_no_memory(folder: Path) -> None:
    """31,000 x 31,000 pixels would be a gigabyte."""
    content = json.loads(coco(folder / "set.json", [GOOD], [GOOD]).read_text())
    content["images"][0] |= {"width": 31000, "height": 31000}
    content["annotations"][0]["segmentation"] = {"size": [31000, 31000], "counts": [31000**2 - 5, 5]}
    assert len(read_supports(write(folder / "set.json", content)).examples) == 1
    drawn = labelme(shape("polygon", GOOD), imageWidth=31000, imageHeight=31000)
    with pytest.raises(InvalidSupport, match="is 31000x31000 there"):
        read_supports(write(folder / "x" / "a.json", drawn), images=folder)


def labelme(*shapes: Any, **more: Any) -> dict[str, Any]:
    about = {"version": "5.5.0", "flags": {}, "imagePath": "a.jpg", "imageData": None}
    return {**about, "imageWidth": SIZE[0], "imageHeight": SIZE[1], "shapes": list(shapes), **more}


def shape(kind: Any, flat: list[float], label: Any = "red", **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": np.reshape(flat, (-1, 2)).tolist(), **more}


@pytest.mark.parametrize(
    "bad",
    [
        shape("polygon", []),
        shape("polygon", [5, 5]),
        shape("circle", [5, 5, 9, 9, 12, 12, 3, 3]),
        {"label": "red", "shape_type": "polygon"},
        {"label": "", "shape_type": "polygon", "points": [[1, 2]]},
        {"shape_type": "polygon", "points": [[1, 2]]},
        shape("mask", [5, 5, 9, 9], mask="????"),
        shape("mask", [5, 5, 9, 9]),
        "red",
    ],
)
def test_a_bad_shape_of_labelme(folder: Path, caplog: pytest.LogCaptureFixture, bad: Any) -> None:
    path = write(folder / "a.json", labelme(bad, shape("polygon", GOOD)))
    (example,) = read_supports(path).examples
    assert (example.mask() == 1).sum() == 400
    assert str(path) in caplog.text
    with pytest.raises(InvalidSupport, match=r"a\.json"):
        read_supports(path, strict=True)


@pytest.mark.parametrize(
    ("kind", "flat"),
    [
        *((kind, GOOD) for kind in ("Polygon", "POLYGON", " polygon", None, "")),
        *((kind, [20, 20, 40, 40]) for kind in ("Rectangle", "RECTANGLE")),
        ("Rectangle", GOOD),
    ],
)
def test_spellings_of_labelme(folder: Path, kind: Any, flat: list[float]) -> None:
    (example,) = read_supports(write(folder / "a.json", labelme(shape(kind, flat))), strict=True).examples
    assert (example.mask() == 1).sum() == 400


@pytest.mark.parametrize("label", ["a\nb", "\x00", "\u202e"])
def test_labels_that_cannot_be_shown(folder: Path, caplog: pytest.LogCaptureFixture, label: str) -> None:
    path = write(folder / "a.json", labelme(shape("polygon", GOOD, label=label), shape("polygon", GOOD)))
    assert read_supports(path).labels == ("red",)
    assert "characters that cannot be shown" in caplog.text


def test_parts_with_label_folders(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label in ("red", "blue"):
            image_file(tmp_path / part / label / f"{part}.jpg")
            Image.fromarray(np.eye(SIZE[1], SIZE[0], dtype=np.uint8)).save(tmp_path / part / label / f"{part}.png")
    assert read_supports(tmp_path).labels == ("blue", "red")
    assert len(read_supports(tmp_path, split="train").examples) == 2


def test_labels_that_are_numbers(folder: Path) -> None:
    assert read_supports(write(folder / "a.json", labelme(shape("polygon", GOOD, label=7)))).labels == ("7",)


@pytest.mark.parametrize(
    ("corner", "inside"), [((-1, -1), 81), ((0, 0), 110), ((87, 55), 81), ((86, 54), 100), ((-1, 55), 81)]
)
def test_masks_that_stick_out_by_a_pixel_are_cut(folder: Path, corner: tuple[int, int], inside: int) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.full((10, 10 if corner != (0, 0) else 11), 1, np.uint8)).save(stream, "PNG")
    data = base64.b64encode(stream.getvalue()).decode()
    entry = shape("mask", [*corner, corner[0] + 9, corner[1] + 9], mask=data)
    (example,) = read_supports(write(folder / "a.json", labelme(entry)), strict=True).examples
    mask = example.mask() == 1
    expected = np.zeros_like(mask)
    left, top = corner
    expected[max(top, 0) : top + 10, max(left, 0) : left + (11 if corner == (0, 0) else 10)] = True
    np.testing.assert_array_equal(mask, expected)
    assert mask.sum() == inside


@pytest.mark.parametrize("encoding", ["gb18030", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_encodings(folder: Path, encoding: str, as_folder: bool) -> None:
    path = write(folder / "a.json", labelme(shape("polygon", GOOD, label="羊")), encoding)
    assert read_supports(folder if as_folder else path).labels == ("羊",)


def test_an_encoding_that_is_not_known_is_no_damage(folder: Path) -> None:
    write(folder / "a.json", labelme(shape("polygon", GOOD, label="é")), "latin-1")
    with pytest.raises(InvalidSupport, match="save it as UTF-8") as caught:
        read_supports(folder / "a.json")
    assert "damaged" not in str(caught.value)


def test_examples_are_checked_before_the_model_is_loaded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checkpoint is not there: an error about the examples comes first."""
    coco(folder / "set.json", [GOOD], [[5, 5, 9, 9]])
    options = ["--support", str(folder / "set.json"), "--input", str(folder / "c.jpg"), "--out", str(folder / "out")]
    nowhere = ["--model", str(folder / "nowhere.safetensors")]
    assert cli.main(["segment", *options, *nowhere, "--strict"]) == 2
    assert "annotation 2 of" in capsys.readouterr().err
    assert cli.main(["segment", *options, *nowhere]) == 2
    assert "nowhere.safetensors" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("stated", ["upright", "stored", "nothing"])
def test_coco_of_turned_images(tmp_path: Path, caplog: pytest.LogCaptureFixture, orientation: int, stated: str) -> None:
    """What is drawn lies where it was drawn; where the file does not tell how, the log says what was taken."""
    path = image_file(tmp_path / "a.jpg", orientation)
    swapped = orientation >= 5
    size = SIZE[::-1] if swapped and stated == "upright" else SIZE
    content = json.loads(coco(tmp_path / "set.json", [GOOD], files=("a.jpg",)).read_text())
    content["images"][0] |= {"width": size[0], "height": size[1]} if stated != "nothing" else {"width": 0}
    (example,) = read_supports(write(tmp_path / "set.json", content)).examples
    mask = example.mask() == 1
    stored = np.zeros(SIZE[::-1], bool)
    stored[20:40, 20:40] = True
    if swapped and stated == "stored":
        with Image.open(path) as image:
            tagged = Image.fromarray(stored.view(np.uint8))
            tagged.save(tmp_path / "m.png", exif=image.getexif())
        with Image.open(tmp_path / "m.png") as image:
            from PIL import ImageOps

            expected = np.asarray(ImageOps.exif_transpose(image)) > 0
    else:
        expected = np.zeros(SIZE if swapped else SIZE[::-1], bool)
        expected[20:40, 20:40] = True
    np.testing.assert_array_equal(mask, expected)
    open_question = orientation != 1 and not (swapped and stated == "upright")
    assert (f"EXIF orientation {orientation}" in caplog.text) == open_question


def test_polygons_that_only_fit_the_upright_image(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg", 6)  # 64 x 96 upright; the file states 96 x 64
    low = [10, 70, 30, 70, 30, 90, 10, 90]
    (example,) = read_supports(coco(tmp_path / "set.json", [low], files=("a.jpg",))).examples
    assert (example.mask()[70:90, 10:30] == 1).all()


def test_label_studios_coco_of_turned_images(tmp_path: Path) -> None:
    """It multiplies shares of the upright image by the size before turning."""
    image_file(tmp_path / "a.jpg", 6)
    content = json.loads(coco(tmp_path / "set.json", [[24, 16, 48, 16, 48, 32, 24, 32]], files=("a.jpg",)).read_text())
    content["info"] = {"contributor": "Label Studio"}
    (example,) = read_supports(write(tmp_path / "set.json", content)).examples
    mask = example.mask() == 1
    assert mask.shape == (96, 64)
    assert mask[24:48, 16:32].all()
    assert mask.sum() == 24 * 16
    content["categories"] = [{"id": 1, "name": "default", "keypoints": ["red"]}]
    with pytest.raises(InvalidSupport, match="KeyPointLabels"):
        read_supports(write(tmp_path / "set.json", content))
