"""images/ and masks/: with a list of classes, of one class, with a folder a label; VOC's lists as tools write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewseg.core.errors import InvalidSupport
from fewseg.formats import ExportOptions, MaskRecord, export_masks, read_supports
from fewseg.inference.segmenter import Segmenter
from helpers.colour_method import ColourMethod
from helpers.discs import SIZE, A, B, image_file
from helpers.touching import grid


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def two_classes() -> np.ndarray:
    return A * 1 + B * 2


@pytest.mark.parametrize("ending", [".png", "_mask.png", ".mask.png", ".tif", ".bmp", "_mask.tiff", ".PNG"])
@pytest.mark.parametrize(("images", "masks"), [("images", "masks"), ("image", "mask"), ("imgs", "labels")])
def test_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture, images: str, masks: str, ending: str) -> None:
    image_file(tmp_path / images / "a.jpg")
    save(tmp_path / masks / f"a{ending}", A * 255)
    (example,) = read_supports(tmp_path, strict=True).examples
    assert example.label == "object"
    np.testing.assert_array_equal(example.mask() == 1, A)
    assert "--labels NAME names it" in caplog.text
    assert read_supports(tmp_path, labels=["crack"]).labels == ("crack",)


def test_several_classes_need_a_list(tmp_path: Path) -> None:
    image_file(tmp_path / "images" / "deep" / "a.jpg")
    save(tmp_path / "masks" / "deep" / "a.png", two_classes())
    with pytest.raises(InvalidSupport, match=r"several values \(1, 2 .*classes.txt, one a line"):
        read_supports(tmp_path)
    for text in ("red\nblue\n", "background\nred\nblue\n", "_background_\r\nred\r\nblue\r\n", "1 red\n2 blue\n"):
        (tmp_path / "classes.txt").write_text(text)
        found = {e.label: e.mask() == 1 for e in read_supports(tmp_path, strict=True).examples}
        np.testing.assert_array_equal(found["red"], A)
        np.testing.assert_array_equal(found["blue"], B)


def test_one_value_in_each_mask_is_no_single_class(tmp_path: Path) -> None:
    for name, mask in (("a", A), ("b", B * 2)):
        image_file(tmp_path / "images" / f"{name}.jpg")
        save(tmp_path / "masks" / f"{name}.png", mask)
    with pytest.raises(InvalidSupport, match="several values"):
        read_supports(tmp_path)


def test_a_value_without_a_name_leaves_out_its_mask(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, mask in (("a", A), ("b", B * 7)):
        image_file(tmp_path / "images" / f"{name}.jpg")
        save(tmp_path / "masks" / f"{name}.png", mask)
    save(tmp_path / "masks" / "c.png", A)
    (tmp_path / "classes.txt").write_text("red\n")
    assert len(read_supports(tmp_path).examples) == 1
    assert "b.png has class 7, 1 are named" in caplog.text
    assert "c.png has no image c.jpg" in caplog.text


def test_parts_with_folders_of_their_own(tmp_path: Path) -> None:
    for part in ("train", "val"):
        image_file(tmp_path / part / "images" / f"{part}.jpg")
        save(tmp_path / part / "masks" / f"{part}.png", A * 255)
    assert len(read_supports(tmp_path).examples) == 2
    (example,) = read_supports(tmp_path, split="val").examples
    assert isinstance(example.image, Path)
    assert example.image.stem == "val"


def test_masks_of_fewseg_are_read_again(tmp_path: Path) -> None:
    """`masks/LABEL/NAME.png`, with the images elsewhere."""
    file = image_file(tmp_path / "photos" / "a.jpg")
    record = MaskRecord("a", SIZE, {"red": A, "blue": B}, image=file, file_name="a.jpg")
    export_masks([record], tmp_path / "out", ["png"])
    found = {e.label: e.mask() == 1 for e in read_supports(tmp_path / "out", images=tmp_path / "photos").examples}
    np.testing.assert_array_equal(found["red"], A)
    np.testing.assert_array_equal(found["blue"], B)


@pytest.mark.parametrize("kind", ["coco", "coco-rle", "labelme", "yolo", "geojson"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_round_trips(tmp_path: Path, kind: str, orientation: int) -> None:
    """What is written in each format is read back pixel for pixel, holes and turned images included."""
    file = image_file(tmp_path / "photos" / "a.jpg", orientation)
    upright = SIZE[::-1] if orientation >= 5 else SIZE
    hole = A.copy()
    hole[28:32, 22:27] = False
    masks = {"red": hole, "blue": B}
    masks = {label: mask.T.copy() if orientation >= 5 else mask for label, mask in masks.items()}
    record = MaskRecord("a", upright, masks, image=file, file_name="a.jpg")
    export_masks([record], tmp_path / "out", [kind], options=ExportOptions(tolerance=0))
    place = tmp_path / "out" / ("" if kind.startswith("coco") else kind)
    images = tmp_path / "photos" if kind.startswith(("coco", "geo")) else None
    found = {e.label: e.mask() == 1 for e in read_supports(place, images=images, strict=True).examples}
    assert set(found) == set(masks)
    for label, mask in masks.items():
        np.testing.assert_array_equal(found[label], mask)


def labelmap(tmp_path: Path, text: str) -> Path:
    image_file(tmp_path / "JPEGImages" / "a.jpg")
    pixels = np.zeros((*SIZE[::-1], 3), np.uint8)
    pixels[A] = (48, 112, 32)
    save(tmp_path / "SegmentationClass" / "a.png", pixels)
    (tmp_path / "labelmap.txt").write_text(f"# label:color_rgb:parts:actions\n{text}")
    return tmp_path


@pytest.mark.parametrize("ground", ["background", "__background__", "_background_", "Background", "bg"])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_background_anywhere_in_cvats_list(tmp_path: Path, ground: str, place: int) -> None:
    lines = ["Cat:48,112,32::", "Dog:176,112,32::"]
    lines.insert(place, f"{ground}:0,0,0::")
    (example,) = read_supports(labelmap(tmp_path, "\n".join(lines)), strict=True).examples
    assert example.label == "Cat"
    np.testing.assert_array_equal(example.mask() == 1, A)


def test_two_names_of_one_colour(tmp_path: Path) -> None:
    with pytest.raises(InvalidSupport, match="Cat one colour"):
        read_supports(labelmap(tmp_path, "background:0,0,0::\nCat:48,112,32::\nDog:48,112,32::\n"))


def test_voc_without_its_images_and_with_subfolders(tmp_path: Path) -> None:
    root = labelmap(tmp_path / "v", "background:0,0,0::\nCat:48,112,32::\n")
    (root / "JPEGImages").rename(tmp_path / "photos")
    with pytest.raises(InvalidSupport, match=r"no JPEGImages/: .*--images"):
        read_supports(root)
    assert read_supports(root, images=tmp_path / "photos").labels == ("Cat",)
    (tmp_path / "photos").rename(root / "JPEGImages")
    for folder in ("JPEGImages", "SegmentationClass"):
        inner = root / folder / "cam1"
        inner.mkdir()
        for file in (root / folder).glob("a.*"):
            file.rename(inner / file.name)
    assert read_supports(root, strict=True).labels == ("Cat",)
    (tmp_path / "devkit").mkdir()
    root.rename(tmp_path / "devkit" / "VOC2012")
    assert read_supports(tmp_path / "devkit", strict=True).labels == ("Cat",)


@pytest.mark.parametrize("listed", ["nucleus\n", None])
def test_instance_maps_of_a_class(tmp_path: Path, listed: str | None) -> None:
    for folder in ("images", "instances", "masks"):
        (tmp_path / folder).mkdir()
    objects = grid(2, 2)
    Image.fromarray(np.full((*objects.shape, 3), 90, np.uint8)).save(tmp_path / "images/a.png")
    Image.fromarray(objects.astype(np.uint16)).save(tmp_path / "instances/a.png")
    Image.fromarray((objects > 0).astype(np.uint8)).save(tmp_path / "masks/a.png")
    if listed:
        (tmp_path / "classes.txt").write_text(listed)
    (example,) = read_supports(tmp_path, labels=() if listed else ("nucleus",)).examples
    assert (example.label, example.value) == ("nucleus", "instances")
    np.testing.assert_array_equal(example.mask(), objects > 0)
    (tmp_path / "classes.txt").write_text("nucleus\ncell\n")
    with pytest.raises(InvalidSupport, match="instance maps of one class"):
        read_supports(tmp_path)


def test_instance_maps_in_label_folders(tmp_path: Path) -> None:
    (tmp_path / "disc").mkdir()
    objects = grid(2, 2)
    pixels = np.full((*objects.shape, 3), 90, np.uint8)
    pixels[objects > 0] = (220, 30, 30)
    Image.fromarray(pixels).save(tmp_path / "disc/a.png")
    Image.fromarray(objects.astype(np.uint16)).save(tmp_path / "disc/a.instances.png")
    segmenter = Segmenter(ColourMethod(), device="cpu")
    read_supports(tmp_path).teach(segmenter)
    assert segmenter.object_shapes["disc"].count == 4
