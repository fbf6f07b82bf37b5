"""Tiny copies of the benchmarks with their real folder structures, as they are before `fewseg prepare`.

Every image shows one large object of its class in the class's colour on noise; every third also a small object, of
under 2048 pixels, of the next class.
"""

from __future__ import annotations

import colorsys
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
import scipy.sparse
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 96, 72

COCO_IDS = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""COCO's category ids: 80 of 90 numbers."""

Box = tuple[int, int, int, int]


def boxes(number: int) -> tuple[Box, Box | None]:
    """(x, y, width, height) of the large object of image `number`, and of the small one, if any."""
    large = (2 + 5 * (number % 6), 1 + 3 * (number % 4), 56, 44)
    return large, (70, 58, 12 + number % 5, 10) if number % 3 == 0 else None


def draw_image(path: Path, shown: Sequence[tuple[float, Box]], seed: int, size: tuple[int, int]) -> None:
    """Noise with coloured rectangles (hue, box), as a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 160, (size[1], size[0], 3)).astype(np.uint8)
    for hue, (x, y, width, height) in shown:
        pixels[y : y + height, x : x + width] = [int(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.8, 0.9)]
    Image.fromarray(pixels).save(path, "JPEG", quality=80)


def _values(shown: Sequence[tuple[int, Box]]) -> NDArray[np.uint8]:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    for class_id, (x, y, width, height) in shown:
        values[y : y + height, x : x + width] = class_id + 1
    return values


def _objects(number: int, class_id: int, classes: int) -> list[tuple[int, Box]]:
    large, small = boxes(number)
    return [(class_id, large)] + ([((class_id + 1) % classes, small)] if small else [])


def bordered(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask with 255 where its value changes, as VOC marks borders."""
    changes = np.zeros(values.shape, bool)
    changes[:, 1:] |= values[:, 1:] != values[:, :-1]
    changes[1:] |= values[1:] != values[:-1]
    result = values.copy()
    result[changes] = 255
    return result


def make_pascal5i(root: Path, *, sbd: int = 2, val: int = 3) -> Path:
    """VOC 2012 with one training image a class and `val` to validate, SBD with `sbd` more (and some of VOC's)."""
    voc, release = root / "VOCdevkit/VOC2012", root / "benchmark_RELEASE/dataset"
    sets = voc / "ImageSets/Segmentation"
    for folder in (sets, voc / "SegmentationClass", release / "cls", release / "img"):
        folder.mkdir(parents=True)
    lists: dict[str, list[str]] = {"train": [], "val": [], "sbd_train": [], "sbd_val": []}
    number = 0
    for class_id in range(20):
        kinds = ["train"] + ["val"] * val + ["sbd_train"] * (sbd - 1) + ["sbd_val"]
        for kind in kinds:
            name = f"2008_{number:06d}"
            shown = _objects(number, class_id, 20)
            hues = [(c / 20, box) for c, box in shown]
            draw_image(voc / "JPEGImages" / f"{name}.jpg", hues, number, (WIDTH, HEIGHT))
            values = _values(shown)
            if kind in ("train", "val"):
                save_indexes(voc / "SegmentationClass" / f"{name}.png", bordered(values))
            if kind.startswith("sbd") or number % 4 == 0:  # SBD segments some of VOC's images too, by other masks
                save_mat(release / "cls" / f"{name}.mat", values if kind.startswith("sbd") else np.zeros_like(values))
                draw_image(release / "img" / f"{name}.jpg", hues, number, (WIDTH, HEIGHT))
                lists["sbd_val" if kind == "val" else kind if kind.startswith("sbd") else "sbd_train"].append(name)
            if kind in ("train", "val"):
                lists[kind].append(name)
            number += 1
    for kind in ("train", "val"):
        (sets / f"{kind}.txt").write_text("\n".join(lists[kind]) + "\n")
        (release / f"{kind}.txt").write_text("\n".join(lists[f"sbd_{kind}"]) + "\n")
    return root


def save_indexes(path: Path, values: NDArray[np.uint8]) -> None:
    """A palette PNG."""
    image = Image.fromarray(values)
    image.putpalette([v for i in range(256) for v in (i, 255 - i, 7 * i % 256)])
    image.save(path)


def save_mat(path: Path, values: NDArray[np.uint8]) -> None:
    """As SBD's: a struct GTcls with Boundaries, Segmentation and CategoriesPresent."""
    present = np.unique(values[values > 0])[:, None]
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [scipy.sparse.csc_matrix(values == c + 1, dtype=float) for c in range(20)]
    fields = {"Boundaries": boundaries, "Segmentation": values, "CategoriesPresent": present}
    scipy.io.savemat(path, {"GTcls": fields}, do_compression=True)


def make_coco20i(root: Path, *, train: int = 2, val: int = 3) -> Path:
    """COCO 2014 with its 80 categories, `train` and `val` images of each; polygons, run lengths and a crowd."""
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": i, "name": f"thing {i}", "supercategory": "things"} for i in COCO_IDS]
    for split, count, start in (("train2014", train, 1000), ("val2014", val, 1)):
        images, annotations = [], []
        for number in range(80 * count):
            image_id, class_id = start + 3 * number, number % 80
            file = f"COCO_{split}_{image_id:012d}.jpg"
            shown = _objects(number, class_id, 80)
            draw_image(root / split / file, [(c / 80, box) for c, box in shown], number, (WIDTH, HEIGHT))
            images.append({"id": image_id, "file_name": file, "width": WIDTH, "height": HEIGHT})
            for c, box in shown:
                annotations.append(_annotation(len(annotations), image_id, c, box, number))
        images.append({"id": 7_000_000, "file_name": f"COCO_{split}_none.jpg", "width": 5, "height": 5})
        content = {"info": {}, "categories": categories[::-1], "images": images, "annotations": annotations}
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def _annotation(number: int, image_id: int, class_id: int, box: Box, image: int) -> dict[str, Any]:
    x, y, width, height = box
    outline: Any = [[x, y, x + width, y, x + width, y + height, x, y + height]]
    if image % 7 == 5:  # a crowd: run lengths, column by column
        flat = (_values([(0, box)]) > 0).T.reshape(-1)
        edges = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
        outline = {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *edges, flat.size]).tolist()}
    return {
        "id": number,
        "image_id": image_id,
        "category_id": COCO_IDS[class_id],
        "iscrowd": int(isinstance(outline, dict)),
        "segmentation": outline,
        "bbox": list(box),
        "area": width * height,
    }


def make_fss1000(root: Path, *, classes: Sequence[int] = (4, 2, 3), lists: bool = True) -> Path:
    """FSS-1000 with so many classes to train, validate and test, ten images each, and the lists of the split."""
    names = [f"{'zyxwvut'[i % 7]}_thing_{i}" for i in range(sum(classes))]
    for class_id, name in enumerate(names):
        for number in range(1, 11):
            x, y = 10 * number, 8 * (class_id % 9)
            path = root / "fewshot_data" / name / f"{number}.jpg"
            draw_image(path, [(class_id / len(names), (x, y, 90, 70))], 10 * class_id + number, (224, 224))
            mask = np.zeros((224, 224, 3), np.uint8)
            mask[y : y + 70, x : x + 90] = 255
            Image.fromarray(mask).save(path.with_suffix(".png"))
    if lists:
        folder = root / "splits/fss"
        folder.mkdir(parents=True)
        bounds = np.cumsum([0, *classes])
        for file, start, stop in zip(("trn", "val", "test"), bounds, bounds[1:], strict=False):
            (folder / f"{file}.txt").write_text("\n".join(names[start:stop]) + "\n")
    return root


def write_pascal_lists(folder: Path, pairs: dict[tuple[str, int], list[tuple[str, int]]]) -> None:
    """Lists as HSNet publishes them, by ("trn" or "val", fold)."""
    for (part, fold), listed in pairs.items():
        (folder / part).mkdir(parents=True, exist_ok=True)
        lines = "".join(f"{name}__{class_id + 1:02d}\n" for name, class_id in listed)
        (folder / part / f"fold{fold}.txt").write_text(lines)
