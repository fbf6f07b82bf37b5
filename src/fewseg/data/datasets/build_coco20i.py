"""Preparing COCO-20i: masks painted from the instance annotations, the index, the published pickles."""

from __future__ import annotations

import functools
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from fewseg.core.errors import FewsegError, InvalidDataset, InvalidImage, InvalidMask
from fewseg.core.files import make_folder, remove_leftovers
from fewseg.core.prediction import IGNORE
from fewseg.core.progress import ProgressCallback
from fewseg.data.datasets.benchmark import (
    SCCAN_PIXELS,
    Areas,
    Index,
    Pair,
    computed_pairs,
    read_values,
    write_index,
)
from fewseg.data.datasets.coco20i import MASKS, SPLITS, Coco20i, mask_path
from fewseg.data.datasets.prepare import (
    Archive,
    areas_of,
    check_image,
    in_processes,
    made_from,
    require,
    save_mask,
    sound,
    unpack,
    unpacking_marker,
)
from fewseg.data.datasets.published import FOLDERS, find_file, read_coco_images, read_pickle

log = logging.getLogger(__name__)

_HOME: Final = "COCO's home page, Dataset, Download, 2014"
ANNOTATIONS: Final = Archive("annotations_trainval2014.zip", "annotations", _HOME)
ARCHIVES: Final = (
    Archive("train2014.zip", "train2014", _HOME),
    Archive("val2014.zip", "val2014", _HOME),
    ANNOTATIONS,
)

_CLASSES: Final = 80

_Listed: TypeAlias = dict[int, tuple[str, ...]] | tuple[str, ...]
"""What a list names: images by class, or images."""


@dataclass(frozen=True)
class _Annotated:
    """One image with its annotated instances."""

    name: str
    size: tuple[int, int]
    """(width, height) as the annotations have it."""
    instances: tuple[tuple[int, Any], ...]
    """(class id, COCO segmentation) in the file's order."""


def build(root: Path, lists: Path | None, workers: int, whole: bool, progress: ProgressCallback) -> None:
    """Check, paint, index; raises `InvalidDataset` that names what is missing or damaged."""
    _check(root, progress)
    published = _published(lists or root, given=lists is not None)
    parts: dict[str, Areas] = {}
    classes: tuple[str, ...] = ()
    for part, split in SPLITS.items():
        progress(0, 0, f"reading the annotations of {split}")
        classes, images = _read_annotations(root / "annotations" / f"instances_{split}.json", split)
        remove_leftovers(make_folder(root / MASKS / split), spare_running=True)
        work = functools.partial(_prepare, root, whole)
        prepared = sound(in_processes(work, images, workers, progress, f"masks of {split}"))
        parts[part] = {name: areas for name, areas, _ in prepared}
        if again := sum(replaced for _, _, replaced in prepared):
            where = root / MASKS / split
            log.warning(
                "%d masks in %s were damaged, old, or number classes in another way: painted again", again, where
            )
    lists_of = {key: _pairs(path, key, listed, parts) for key, (path, listed) in published.items()}
    write_index(root, Coco20i.prepared_as, Index(classes, parts), lists_of)


def _check(root: Path, progress: ProgressCallback) -> None:
    for archive in ARCHIVES:
        if not (root / archive.folder).is_dir() or unpacking_marker(root, archive).exists():
            unpack(root, archive, progress)
    found = [(a, (root / a.folder).is_dir() and not unpacking_marker(root, a).exists()) for a in ARCHIVES]
    files = [f"annotations/instances_{split}.json" for split in SPLITS.values()]
    lacking = [file for file in files if (root / "annotations").is_dir() and not (root / file).is_file()]
    require(root, found, [f"{file} (from {ANNOTATIONS.file})" for file in lacking])


def _read_annotations(path: Path, split: str) -> tuple[tuple[str, ...], list[_Annotated]]:
    """Class names in category-id order, and every image that has an annotation, by name."""
    try:
        with path.open("rb") as file:
            content = json.load(file)
        categories = sorted(content["categories"], key=lambda category: category["id"])
        class_of = {category["id"]: index for index, category in enumerate(categories)}
        instances: dict[int, list[tuple[int, Any]]] = {}
        for found in content["annotations"]:
            instances.setdefault(found["image_id"], []).append((class_of[found["category_id"]], found["segmentation"]))
        images = [
            _Annotated(
                f"{split}/{entry['file_name']}", (entry["width"], entry["height"]), tuple(instances[entry["id"]])
            )
            for entry in content["images"]
            if entry["id"] in instances
        ]
    except OSError as error:
        raise InvalidDataset(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise InvalidDataset(
            f"{path} is damaged or cut off ({type(error).__name__} {reason}): delete it and get it again from "
            f"{ANNOTATIONS.file}"
        ) from error
    if len(categories) != _CLASSES:
        raise InvalidDataset(f"{path} has {len(categories)} categories, COCO's instances have {_CLASSES}")
    return tuple(category["name"] for category in categories), sorted(images, key=lambda image: image.name)


def _prepare(root: Path, whole: bool, image: _Annotated) -> tuple[str, dict[int, int], bool] | FewsegError:
    """Paint one mask unless it is there, check the image; gives its classes' areas, and whether it was replaced."""
    try:
        size = check_image(root / image.name, whole=whole)
        if size != image.size:
            got, expected = ("x".join(map(str, s)) for s in (size, image.size))
            raise InvalidImage(f"{root / image.name} is {got}, its annotations are {expected}: get it again")
        values, replaced = _mask(mask_path(root, image.name), image)
        return image.name, areas_of(values), replaced
    except FewsegError as error:
        return error


def _mask(path: Path, image: _Annotated) -> tuple[NDArray[np.uint8], bool]:
    """The mask of an image, painted where it is not there or not usable, and whether another was there before."""
    source = json.dumps(image.instances).encode()
    painted, there = None, path.exists()
    if there:
        try:
            values, ours = read_values(path, _CLASSES), made_from(path, source)
            if ours is None:
                painted = paint(image.instances, image.size, image.name)
                ours = _agrees(values, painted)
            if values.shape == image.size[::-1] and ours:
                return values, False
            log.info("%s was not painted from these annotations and is painted again", path)
        except InvalidMask:
            log.info("%s is damaged, or numbers classes in another way, and is painted again", path)
    values = paint(image.instances, image.size, image.name) if painted is None else painted
    save_mask(path, values, source)
    return values, there


def _agrees(values: NDArray[np.uint8], painted: NDArray[np.uint8]) -> bool:
    """Whether a mask from elsewhere shows the annotated classes by our numbers; COCO's own ids run to 90.

    Its outlines, and the order of objects that cover each other, may be others.
    """
    if values.shape != painted.shape or set(np.unique(values)) - {0, IGNORE} - set(np.unique(painted)):
        return False
    either = (values != 0) | (painted != 0)
    return bool(np.count_nonzero((values == painted) & either) >= np.count_nonzero(either) / 2)


def paint(instances: tuple[tuple[int, Any], ...], size: tuple[int, int], name: str) -> NDArray[np.uint8]:
    """(H, W) values, class id + 1, of instances (class id, polygons or run lengths); later ones cover earlier ones."""
    width, height = size
    values = np.zeros((height, width), np.uint8)
    for class_id, segmentation in instances:
        try:
            coded = segmentation
            if isinstance(coded, list):
                coded = coco_mask.merge(coco_mask.frPyObjects(coded, height, width))
            elif isinstance(coded["counts"], list):
                coded = coco_mask.frPyObjects(coded, height, width)
            values[coco_mask.decode(coded).astype(bool)] = class_id + 1
        except Exception as error:  # pycocotools raises anything on damaged annotations
            raise InvalidDataset(
                f"an annotation of {name} cannot be painted ({type(error).__name__}: {' '.join(str(error).split())}): "
                f"get {ANNOTATIONS.file} again"
            ) from error
    return values


def _published(folder: Path, *, given: bool) -> dict[str, tuple[Path, _Listed]]:
    """Published lists by key (`test-0`), and where they were read: pickles, or SCCAN's text files."""
    found: dict[str, tuple[Path, _Listed]] = {}
    for part in SPLITS:
        for fold in range(Coco20i.folds):
            places = FOLDERS["train" if part == "train" else "test"]
            texts = [f"{within}{place}/data_list_{fold}.txt" for within in ("", "fss_list/") for place in places]
            path = find_file(folder, ("coco", "coco20i"), [*(f"{place}/fold{fold}.pkl" for place in places), *texts])
            if path is not None:
                found[f"{part}-{fold}"] = path, (read_pickle if path.suffix == ".pkl" else read_coco_images)(path)
    if given and not found:
        raise InvalidDataset(
            f"{folder} has no list of COCO-20i: expected trn/fold0.pkl ... and val/fold0.pkl ..., or "
            "train/data_list_0.txt ... and val/data_list_0.txt ..."
        )
    return found


def _pairs(path: Path, key: str, listed: _Listed, parts: dict[str, Areas]) -> tuple[Pair, ...]:
    """What a list says to train on, or test: a pickle class by class; a text image by image, every class that an image
    shows on at least 2048 pixels, in the order of the lines."""
    part, fold = key.split("-")
    areas, tested = parts[part], frozenset(range(int(fold), _CLASSES, 4))
    classes = [c for c in range(_CLASSES) if (c in tested) == (part == "test")]
    names = tuple(name for c in classes for name in listed.get(c, ())) if isinstance(listed, dict) else listed
    unknown = next((name for name in names if name not in areas), None)
    if unknown is not None:
        raise InvalidDataset(f"{path} lists {unknown}, which is not among these images: give lists of COCO 2014")
    if isinstance(listed, dict):
        return tuple((name, c) for c in classes for name in listed.get(c, ()))
    shown: dict[str, list[Pair]] = {}
    for name, c in computed_pairs(areas, classes, SCCAN_PIXELS, class_by_class=False):
        shown.setdefault(name, []).append((name, c))
    return tuple(pair for name in listed for pair in shown.get(name, ()))
