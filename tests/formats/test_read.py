"""Supports in other tools' formats: made with pycocotools, Pillow or by hand, read back, taught."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from fewseg.core.errors import FewsegError, InvalidOption, InvalidSupport
from fewseg.data.datasets.pascal5i import voc_colour
from fewseg.formats import ExportOptions, MaskRecord, Supports, export_masks, read_supports
from fewseg.formats.examples import SupportExample, choose_examples
from fewseg.formats.left_out import LeftOut
from fewseg.images.orientation import upright, upright_size
from fewseg.inference.segmenter import Segmenter
from helpers.colour_method import ColourMethod, blob, iou, write_support
from helpers.discs import SIZE, A, B, disc, image_file


def rle(mask: np.ndarray, compressed: bool = True) -> dict[str, Any]:
    if not compressed:
        flat = mask.T.reshape(-1)
        edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
        runs = np.diff([0, *edges, flat.size]).tolist()
        return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}
    found = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": found["size"], "counts": found["counts"].decode()}


def coco(*annotations: tuple[int, int, Any], files: tuple[str, ...] = ("a.jpg",), **more: Any) -> dict[str, Any]:
    images = [{"id": i, "file_name": n, "width": SIZE[0], "height": SIZE[1]} for i, n in enumerate(files, 1)]
    entries = [
        {"id": i, "image_id": image, "category_id": category, "segmentation": shape, "iscrowd": 0}
        for i, (image, category, shape) in enumerate(annotations, 1)
    ]
    categories = [{"id": 7, "name": "red"}, {"id": 3, "name": "blue"}]
    return {"images": images, "annotations": entries, "categories": categories, **more}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), "utf-8")
    return path


def masks(supports: Supports) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for example in supports.examples:
        found.setdefault(example.label, []).append(example.mask())
    return found


def test_coco_merges_instances_and_reads_every_kind(tmp_path: Path) -> None:
    image_file(tmp_path / "images" / "a.jpg")
    box = [20.0, 50.0, 30.0, 50.0, 30.0, 60.0, 20.0, 60.0]
    content = coco((1, 7, [box]), (1, 7, rle(A)), (1, 3, rle(B, compressed=False)))
    content["annotations"][2]["iscrowd"] = 1
    for path in (write(tmp_path / "set.json", content), tmp_path):
        supports = read_supports(path)
        assert supports.kind == "COCO JSON"
        assert supports.labels == ("red", "blue")
        expected = A.copy()
        expected[50:60, 20:30] = True
        np.testing.assert_array_equal(masks(supports)["red"], [expected])
        np.testing.assert_array_equal(masks(supports)["blue"], [B])


def test_coco_of_the_usual_folders(tmp_path: Path) -> None:
    image_file(tmp_path / "train" / "a.jpg")
    write(tmp_path / "annotations" / "instances.json", coco((1, 7, rle(A)), files=("a.jpg",)))
    with pytest.raises(InvalidSupport, match="--images"):
        read_supports(tmp_path)
    assert masks(read_supports(tmp_path, images=tmp_path / "train"))["red"][0].sum() == A.sum()
    write(tmp_path / "annotations" / "instances.json", coco((1, 7, rle(A)), files=("train\\a.jpg",)))
    assert read_supports(tmp_path).examples[0].image == tmp_path / "train" / "a.jpg"


def test_shots_are_those_that_show_something(tmp_path: Path) -> None:
    names = tuple(f"{i}.jpg" for i in range(4))
    for name in names:
        image_file(tmp_path / name)
    speck = disc(50, 10, 3)
    shapes = [speck, A, B, A | B]
    write(tmp_path / "set.json", coco(*((i, 7, rle(m)) for i, m in enumerate(shapes, 1)), files=names))
    for shots, expected in ((1, [A]), (2, [A, B]), (4, [A, B, A | B, speck]), (9, [A, B, A | B, speck])):
        np.testing.assert_array_equal(masks(read_supports(tmp_path, shots=shots))["red"], expected)
    assert len(read_supports(tmp_path, labels=["red"]).examples) == 4
    with pytest.raises(InvalidSupport, match="did you mean 'red'"):
        read_supports(tmp_path, labels=["rad"])
    with pytest.raises(InvalidOption, match="-1 shots"):
        read_supports(tmp_path, shots=-1)


@pytest.mark.parametrize("seed", range(8))
def test_run_lengths_of_pycocotools(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.kron(rng.random((8, 12)) < rng.random(), np.ones((8, 8), bool)) ^ (rng.random((64, 96)) < 0.02 * seed)
    mask[5, 5] = True
    image_file(tmp_path / "a.jpg")
    write(tmp_path / "set.json", coco((1, 7, rle(mask)), (1, 3, rle(mask, compressed=False))))
    found = masks(read_supports(tmp_path))
    np.testing.assert_array_equal(found["red"][0] == 1, mask)
    np.testing.assert_array_equal(found["blue"][0] == 1, mask)


def labelme(*shapes: dict[str, Any], **more: Any) -> dict[str, Any]:
    about = {"version": "5.5.0", "flags": {}, "imagePath": "a.jpg", "imageData": None}
    return {**about, "imageWidth": SIZE[0], "imageHeight": SIZE[1], "shapes": list(shapes), **more}


def shape(label: str, kind: str, points: list[list[float]], **more: Any) -> dict[str, Any]:
    return {"label": label, "shape_type": kind, "points": points, "group_id": None, "flags": {}, **more}


def png(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def test_labelme_shapes(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    part = B[18:43, 58:83]
    shapes = [
        shape("circle", "circle", [[25.5, 30.5], [25.5, 44.5]]),
        shape("rectangle", "rectangle", [[40, 50], [20, 45]]),
        shape("polygon", "polygon", [[10, 10], [30, 10], [30, 20], [10, 20]]),
        shape("polygon", "polygon", [[50, 10], [60, 10], [60, 20]]),
        shape("mask", "mask", [[58, 18], [82, 42]], mask=png(Image.fromarray(part))),
        shape("__ignore__", "rectangle", [[0, 60], [96, 64]]),
        shape("way", "linestrip", [[0, 0], [5, 5]]),
    ]
    write(tmp_path / "a.json", labelme(*shapes))
    for path in (tmp_path, tmp_path / "a.json"):
        supports = read_supports(path)
        assert supports.kind == "labelme"
        assert set(supports.labels) == {"circle", "rectangle", "polygon", "mask"}
        found = {label: group[0] for label, group in masks(supports).items()}
        assert iou(found["circle"] == 1, A) > 0.97
        expected = np.zeros_like(A)
        expected[45:50, 20:40] = True
        np.testing.assert_array_equal(found["rectangle"] == 1, expected)
        # As labelme's own reader draws polygons, which takes the pixels that the outline touches too.
        canvas = Image.new("1", SIZE)
        for points in (shapes[2]["points"], shapes[3]["points"]):
            ImageDraw.Draw(canvas).polygon([tuple(p) for p in points], fill=1, outline=1)
        drawn = np.asarray(canvas)
        inside = found["polygon"] == 1
        assert (inside & ~drawn).sum() == 0
        assert (drawn & ~inside).sum() <= 62  # at most one pixel along the outline
        np.testing.assert_array_equal(found["mask"] == 1, B)
        assert (found["mask"][60:] == 255).all()


def test_labelme_images_inside_the_file(tmp_path: Path) -> None:
    data = base64.b64encode(image_file(tmp_path / "elsewhere.png").read_bytes()).decode()
    (tmp_path / "elsewhere.png").unlink()
    write(tmp_path / "x.json", labelme(shape("red", "circle", [[25, 30], [39, 30]]), imageData=data))
    segmenter = Segmenter(ColourMethod(), device="cpu")
    read_supports(tmp_path).teach(segmenter)
    assert iou(segmenter.segment(image_file(tmp_path / "q.png")).masks["red"], A) > 0.9


def voc(folder: Path, *, rgb: bool = False) -> Path:
    image_file(folder / "JPEGImages" / "a.jpg")
    image_file(folder / "JPEGImages" / "unlabelled.jpg")
    index = np.zeros(SIZE[::-1], np.uint8)
    index[disc(25, 30, 16)] = 255
    index[A], index[B] = 8, 20
    palette = [v for i in range(255) for v in voc_colour(i)] + [224, 224, 192]
    (folder / "SegmentationClass").mkdir()
    image = Image.fromarray(index)
    image.putpalette(palette)
    (image.convert("RGB") if rgb else image).save(folder / "SegmentationClass" / "a.png")
    return folder


@pytest.mark.parametrize("rgb", [False, True])
def test_voc(tmp_path: Path, rgb: bool) -> None:
    supports = read_supports(voc(tmp_path / "voc", rgb=rgb))
    assert (supports.kind, supports.labels) == ("VOC", ("cat", "tvmonitor"))
    (cat,) = masks(supports)["cat"]
    np.testing.assert_array_equal(cat == 1, A)
    np.testing.assert_array_equal(cat == 255, disc(25, 30, 16) & ~A)
    assert [p.name for p in supports.mask_files] == ["a.png", "a.png"]
    assert read_supports(tmp_path / "voc", labels=["tvmonitor"], shots=1).labels == ("tvmonitor",)


def test_voc_colours_are_the_published_ones() -> None:
    assert [voc_colour(i) for i in (0, 1, 2, 8, 15, 20)] == [
        (0, 0, 0),
        (128, 0, 0),
        (0, 128, 0),
        (64, 0, 0),
        (192, 128, 128),
        (0, 64, 128),
    ]


def test_voc_with_names_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "voc"
    image_file(folder / "JPEGImages" / "a.jpg")
    (folder / "SegmentationClass").mkdir()
    pixels = np.zeros((*SIZE[::-1], 3), np.uint8)
    pixels[A], pixels[B] = (10, 20, 30), (200, 0, 0)
    Image.fromarray(pixels).save(folder / "SegmentationClass" / "a.png")
    with pytest.raises(InvalidSupport, match=r"colour \(10, 20, 30\)"):
        read_supports(folder)
    (folder / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nx:200,0,0::\ny:10,20,30::\n"
    )
    np.testing.assert_array_equal(masks(read_supports(folder))["y"], [A])
    Image.fromarray((A * 3).astype(np.uint8)).save(folder / "SegmentationClass" / "a.png")
    with pytest.raises(InvalidSupport, match="class 3, 2 are named"):
        read_supports(folder)


def test_voc_as_windows_and_macs_leave_it(tmp_path: Path) -> None:
    """A byte order mark before the names, and hidden files beside the images."""
    folder = voc(tmp_path / "voc")
    names = ["_background_", *(f"class {i}" for i in range(1, 21))]
    (folder / "class_names.txt").write_text("\n".join(names), "utf-8-sig")
    for file in ("JPEGImages/._a.jpg", "SegmentationClass/._a.png"):
        (folder / file).write_bytes(b"\0\5\26\7" * 50)
    assert read_supports(folder).labels == ("class 8", "class 20")


def test_mask_folders_still_work(tmp_path: Path) -> None:
    supports = read_supports(write_support(tmp_path / "support", "red", "blue"))
    assert (supports.kind, supports.labels) == ("mask folders", ("blue", "red"))
    assert len(supports.mask_files) == 4
    segmenter = Segmenter(ColourMethod(), device="cpu")
    supports.teach(segmenter)
    image, mask = blob("red")
    assert iou(segmenter.segment(image).masks["red"], mask) > 0.9


@pytest.mark.parametrize("kind", ["coco", "coco-rle", "labelme"])
def test_what_is_exported_is_read_again(tmp_path: Path, kind: str) -> None:
    file = image_file(tmp_path / "p" / "a.jpg")
    holed = A & ~disc(25, 30, 5)
    record = MaskRecord("a", SIZE, {"red": holed | disc(10, 55, 6), "blue": B}, image=file, file_name="a.jpg")
    export_masks([record], tmp_path / "out", [kind], options=ExportOptions(tolerance=0))
    supports = read_supports(tmp_path / "out" / ("labelme" if kind == "labelme" else ""), images=tmp_path / "p")
    found = masks(supports)
    np.testing.assert_array_equal(found["red"][0] == 1, record.masks["red"])
    np.testing.assert_array_equal(found["blue"][0] == 1, B)


def test_turned_images(tmp_path: Path) -> None:
    """Masks drawn on the image as stored are turned with it."""
    image_file(tmp_path / "a.jpg", orientation=6)
    write(tmp_path / "set.json", coco((1, 7, rle(A))))
    np.testing.assert_array_equal(masks(read_supports(tmp_path))["red"], [np.rot90(A, -1)])


@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_boxes_are_turned_with_their_images(tmp_path: Path, orientation: int) -> None:
    """As masks are: drawn on the image as stored where its sides say so."""
    path = image_file(tmp_path / "a.jpg", orientation)
    y, x = (np.flatnonzero(A.any(axis)) for axis in (1, 0))
    box = [int(x[0]), int(y[0]), int(x[-1] - x[0] + 1), int(y[-1] - y[0] + 1)]
    content = coco((1, 7, []))
    content["annotations"][0]["bbox"] = box
    write(tmp_path / "set.json", content)
    ((mark,),) = [e.load_prompts() for e in read_supports(tmp_path / "set.json").examples if e.load_prompts]
    with Image.open(path) as image:
        upright = A if upright_size(image.size, orientation) == SIZE else np.asarray(turned(A, orientation))
    y, x = (np.flatnonzero(upright.any(axis)) for axis in (1, 0))
    assert mark.box == (x[0], y[0], x[-1] + 1, y[-1] + 1)
    content["images"][0] |= {"width": 2 * SIZE[0], "height": 2 * SIZE[1]}
    write(tmp_path / "set.json", content)
    with pytest.raises(InvalidSupport, match="shapes would lie elsewhere; give the images that were annotated"):
        [e.load_prompts() for e in read_supports(tmp_path / "set.json").examples if e.load_prompts]


def turned(mask: np.ndarray, orientation: int) -> Image.Image:
    return upright(Image.fromarray(mask.view(np.uint8)), orientation)


def test_coco_images_in_folders_are_told_apart(tmp_path: Path) -> None:
    for name in ("0001.jpg", "images/cam1/0001.jpg", "images/cam2/0001.jpg"):
        image_file(tmp_path / name)
    names = ("cam1/0001.jpg", "cam2/0001.jpg")
    write(tmp_path / "set.json", coco((1, 7, rle(A)), (2, 7, rle(B)), files=names))
    found = [str(e.image) for e in read_supports(tmp_path / "set.json").examples]
    assert found == [str(tmp_path / "images" / name) for name in names]
    with pytest.raises(InvalidSupport, match=r"image cam1/0001.jpg of .* and image cam2/0001.jpg of .*: both would be"):
        read_supports(tmp_path / "set.json", images=tmp_path)


def test_numbers_that_tools_write_as_text(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    content = coco((1, 7, rle(A)), (1, 3, [[]]))
    content["annotations"][0] |= {"image_id": "1", "category_id": 7.0}
    content["annotations"][1] |= {"bbox": [58, 18, 25, 25]}
    supports = read_supports(write(tmp_path / "set.json", content))
    red, blue = sorted(supports.examples, key=lambda e: e.label, reverse=True)
    np.testing.assert_array_equal(red.mask() == 1, A)
    assert blue.load_mask is None
    assert blue.load_prompts is not None
    assert blue.load_prompts()[0].box == (58, 18, 83, 43)


def test_labels_that_are_not_wanted_need_no_images(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    content = coco((1, 7, rle(A)), (2, 3, rle(B)), files=("a.jpg", "gone.jpg"))
    for labels, found in ((["red"], ("red",)), (["blue"], None)):
        path = write(tmp_path / "set.json", content)
        if found is None:
            with pytest.raises(InvalidSupport, match=r"image gone\.jpg"):
                read_supports(path, labels=labels)
        else:
            assert read_supports(path, labels=labels).labels == found


def test_examples_that_cannot_be_used_are_the_last_to_be_chosen(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        image_file(tmp_path / name)
    content = coco((1, 7, [[1, 1, 1, 1, 1, 1]]), (2, 7, rle(A)), files=("a.jpg", "b.jpg"))
    (chosen,) = read_supports(write(tmp_path / "set.json", content), shots=1).examples
    assert chosen.image == tmp_path / "b.jpg"


def test_palettes_that_tools_reordered(tmp_path: Path) -> None:
    """Their colours are the classes', their numbers are not."""
    root = voc(tmp_path / "voc", rgb=True)
    path = root / "SegmentationClass" / "a.png"
    before = masks(read_supports(root))
    Image.open(path).quantize(8).save(path)
    assert Image.open(path).mode == "P"
    after = masks(read_supports(root))
    for label, (mask,) in before.items():
        np.testing.assert_array_equal(after[label][0], mask)


def test_images_inside_labelmes_files_are_not_all_in_memory(tmp_path: Path) -> None:
    data = base64.b64encode(image_file(tmp_path / "x.png").read_bytes()).decode()
    (tmp_path / "x.png").unlink()
    # Keys in order of the alphabet: the image comes before all that tells the file from others.
    content = labelme(shape("red", "circle", [[25, 30], [39, 30]]), imageData=data + " " * (1 << 20))
    for name in "ab":
        (tmp_path / f"{name}.json").write_text(json.dumps(content, sort_keys=True))
    supports = read_supports(tmp_path)
    assert len(supports.examples) == 2
    held = [example.load_mask.args for example in supports.examples]  # type: ignore[union-attr]
    assert all(len(str(args)) < 10_000 for args in held)
    assert iou(masks(supports)["red"][1] == 1, A) > 0.9


def test_rectangles_of_four_corners(tmp_path: Path) -> None:
    image_file(tmp_path / "a.jpg")
    corners = [[20, 45], [40, 45], [40, 50], [20, 50]]
    shapes = [shape("four", "rectangle", corners), shape("turned", "rotation", corners)]
    found = masks(read_supports(write(tmp_path / "a.json", labelme(*shapes))))
    assert found["four"][0][45:50, 20:40].all()
    assert found["four"][0].sum() == 100
    assert iou(found["turned"][0], found["four"][0]) > 0.7


BAD: list[tuple[str, Any, str]] = [
    ("nothing", None, "looked for: mask folders"),
    ("no json", b"{", "damaged or no JSON"),
    ("other json", {"a": 1}, "neither COCO JSON"),
    ("deep", b"[" * 100_000, "no JSON"),
    ("no categories", coco((1, 7, rle(A)), categories=[]), "no categories"),
    ("null categories", coco((1, 7, rle(A)), categories=None), "no categories"),
    ("category", coco((1, 9, rle(A))), "category 9, which the file does not list"),
    ("picture", coco((4, 7, rle(A))), "image 4, which the file does not list"),
    ("no boxes", coco((1, 7, [])), "neither segmentations nor boxes"),
    ("odd", coco((1, 7, [[1, 2, 3, 4, 5, 6, 7]])), "expected pairs"),
    ("words", coco((1, 7, [["a", 2, 3, 4, 5, 6]])), "not a list of numbers"),
    ("far", coco((1, 7, [[0, 0, 1e12, 5, 6, 7]])), "far outside"),
    ("nan", coco((1, 7, [[0, 0, float("nan"), 5, 6, 7]])), "far outside"),
    ("short rle", coco((1, 7, {"size": [64, 96], "counts": [5, 5]})), "do not add up"),
    ("negative rle", coco((1, 7, {"size": [64, 96], "counts": [-5, 6149]})), "do not add up"),
    *(
        (f"rle that overflows {i}", coco((1, 7, {"size": [64, 96], "counts": counts})), words)
        for i, (counts, words) in enumerate(
            [
                ([2**62] * 4 + [6144], "do not add up"),  # the sum wraps around in 64 bits
                ([2**63, 2**63, 6144], "do not add up"),
                ([10**30], "do not add up"),
                ([6144.5], "damaged run lengths"),
                ([0] * 20_000, "damaged run lengths"),
                ("o" * 200_000, "damaged run lengths"),
                ("Pooooooo1" * 3, "run lengths"),
                ([[6144]], "damaged run lengths"),
                ({"a": 1}, "damaged run lengths"),
            ]
        )
    ),
    ("an id of many digits", coco((1, 7, rle(A)), images=[{"id": "9" * 5000, "file_name": "a.jpg"}]), "image 1, which"),
    (
        "an area without end",
        {
            **coco((1, 7, [])),
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 7, "area": 10**400, "segmentation": [[1, 1, 1, 1, 1, 1]]}
            ],
        },
        "covers no pixel",
    ),
    ("other rle", coco((1, 7, {"size": [96, 64], "counts": [6144]})), "64 x 96 pixels, its image has 96 x 64"),
    ("broken rle", coco((1, 7, {"size": [64, 96], "counts": "zzzz"})), "damaged run lengths"),
    ("other text", coco((1, 7, {"size": [64, 96], "counts": "01"})), "do not add up"),
    ("half text", coco((1, 7, {**rle(A), "counts": rle(A)["counts"][:-3]})), "run lengths"),
    ("no counts", coco((1, 7, {"size": [64, 96]})), "without size or counts"),
    ("text", coco((1, 7, "abc")), "neither polygons nor run lengths"),
    ("empty", coco((1, 7, [[1, 1, 1, 1, 1, 1]])), "annotation 1 of"),
    ("whose mask is empty", coco((1, 7, [[1, 1, 1, 1, 1, 1]])), "covers no pixel of its image"),
    (
        "huge",
        {**coco((1, 7, rle(A))), "images": [{"id": 1, "file_name": "a.jpg", "width": 10**6, "height": 10**6}]},
        "at most",
    ),
    (
        "size",
        coco((1, 7, rle(A[:, :50])), images=[{"id": 1, "file_name": "a.jpg", "width": 50, "height": 64}]),
        "96x64",
    ),
    ("missing image", coco((1, 7, rle(A)), files=("b.jpg",)), "image b.jpg of"),
    (
        "endless",
        {**coco((1, 7, rle(A))), "images": [{"id": 1, "file_name": "a.jpg", "width": float("inf"), "height": 9}]},
        "has the size",
    ),
    ("astronomic", coco((1, 7, [[0, 0, 10**400, 5, 6, 7]])), "not a list of numbers"),
    ("no id", {**coco((1, 7, rle(A))), "images": [{"file_name": "a.jpg"}]}, "without id"),
    ("no shapes", labelme(), "no shapes that cover an area"),
    ("no label", labelme({"points": [[0, 0]]}), "without label"),
    ("points", labelme(shape("a", "circle", [[0, 0]])), "1 points: expected 2"),
    ("pairs", labelme(shape("a", "polygon", [[0, 0, 0]])), "no pairs"),
    ("mask", labelme(shape("a", "mask", [[0, 0], [5, 5]], mask="????")), "damaged mask"),
    (
        "outside",
        labelme(shape("a", "mask", [[90, 0], [95, 5]], mask=png(Image.new("1", (9, 9), 1)))),
        "outside its image",
    ),
    ("image data", labelme(shape("a", "circle", [[9, 9], [9, 20]]), imageData="AAAA"), "damaged imageData"),
]


@pytest.mark.parametrize(("what", "content", "words"), BAD, ids=[name for name, _, _ in BAD])
def test_bad_files_give_one_line(tmp_path: Path, what: str, content: Any, words: str) -> None:
    image_file(tmp_path / "a.jpg")
    if isinstance(content, bytes):
        (tmp_path / "x.json").write_bytes(content)
    elif content is not None:
        write(tmp_path / "x.json", content)
    segmenter = Segmenter(ColourMethod(), device="cpu")
    with pytest.raises(FewsegError) as caught:
        read_supports(tmp_path if content is None else tmp_path / "x.json").teach(segmenter)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 700


def test_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(InvalidSupport, match="does not exist: give mask folders"):
        read_supports(tmp_path / "nowhere")
    with pytest.raises(InvalidSupport, match="no JSON either"):
        read_supports(image_file(tmp_path / "a.jpg"))
    with pytest.raises(InvalidSupport, match="check --images"):
        read_supports(tmp_path, images=tmp_path / "nowhere")
    for name in ("x.json", "y.json"):
        write(tmp_path / name, coco((1, 7, rle(A))))
    with pytest.raises(InvalidSupport, match="2 COCO files"):
        read_supports(tmp_path)


def test_blanks_around_labels_do_not_count(tmp_path: Path) -> None:
    image, mask = blob("red")
    examples = [SupportExample(label, image, lambda: mask) for label in ("cat", "cat ", " Cat")]
    chosen = choose_examples(examples, ["cat", "cat ", " Cat"], (), 0, LeftOut())
    assert [example.label for example in chosen] == ["cat", "cat", "Cat"]
