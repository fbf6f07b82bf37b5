"""COCO JSON: examples read from it, masks written as it, with polygons or run lengths.

Reading: a label is a category; all its annotations in an image (instances and crowds; polygons and run lengths,
compressed or not) make one mask. Annotations with a `bbox` and no segmentation are box prompts
(`fewseg.inference.interactive`). Images are looked for by their `file_name`, and by its last part, in the folder given,
beside the JSON, in `images/` beside it and one folder up.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon

from fewseg.core.errors import InvalidSupport, OutputError
from fewseg.core.files import make_folder, replacing
from fewseg.formats.examples import SupportExample, Supports, choose_examples, find_image
from fewseg.formats.manifest import COCO_MARK
from fewseg.formats.polygons import one_ring
from fewseg.formats.rasterise import check_size, fill_polygons
from fewseg.formats.rle import mask_of_rle, rle_entry, rle_of_mask, rle_of_regions
from fewseg.formats.writer import LabelNumbers, MaskedImage, Writer
from fewseg.images import read_image_header, read_image_size
from fewseg.images.decode import ImageLike
from fewseg.images.orientation import upright_size
from fewseg.images.prompts import Prompt


@dataclass(frozen=True)
class _Image:
    file_name: str
    size: tuple[int, int] | None


def is_coco(content: Any) -> bool:
    """Whether parsed JSON looks like a COCO data set."""
    return isinstance(content, dict) and all(isinstance(content.get(k), list) for k in ("images", "annotations"))


def read_coco(path: Path, content: Any, images: Path | None, labels: tuple[str, ...] = (), shots: int = 0) -> Supports:
    """The examples in parsed COCO JSON from `path`; raises `InvalidSupport` for what is not as documented."""
    categories = content.get("categories")
    if not isinstance(categories, list) or not categories:
        raise InvalidSupport(f"{path} has no categories: a COCO file names its labels there")
    names = {_key(c, "id", path): str(_key(c, "name", path)) for c in categories}
    listed = {_key(i, "id", path): _image(i, path) for i in content["images"]}
    groups: dict[tuple[Any, str], list[Any]] = {}
    for annotation in content["annotations"]:
        place, category = _key(annotation, "image_id", path), _key(annotation, "category_id", path)
        about = f"annotation {annotation.get('id', '?')} of {path}"
        if place not in listed or category not in names:
            missing = f"image {place!r}" if place not in listed else f"category {category!r}"
            raise InvalidSupport(f"{about} is of {missing}, which the file does not list: export it again")
        if _is_drawn(annotation) or annotation.get("bbox"):
            groups.setdefault((place, names[category]), []).append(annotation)
    if not groups:
        raise InvalidSupport(f"{path} has neither segmentations nor boxes: draw polygons, masks or boxes")
    # Labels in the order of their categories, images in the order of the file.
    order = {label: i for i, label in enumerate(names.values())}
    places = {place: i for i, place in enumerate(listed)}
    keys = sorted(groups, key=lambda key: (order[key[1]], places[key[0]]))
    found = _examples(path, images, listed, {key: groups[key] for key in keys if not labels or key[1] in labels})
    return Supports("COCO JSON", choose_examples(found, (label for _, label in keys), labels, shots))


def _examples(
    path: Path, images: Path | None, listed: dict[Any, _Image], groups: dict[tuple[Any, str], list[Any]]
) -> Iterator[SupportExample]:
    owners: dict[Path, Any] = {}
    for (place, label), group in groups.items():
        image = listed[place]
        file = find_image(image.file_name, path, images)
        if owners.setdefault(file, place) != place:
            raise InvalidSupport(
                f"{path} lists {listed[owners[file]].file_name} and {image.file_name}, and both would be {file}: "
                "keep the folders that the file names below --images"
            )
        drawn = [a for a in group if _is_drawn(a)]
        boxes = [a for a in group if not _is_drawn(a)]
        load = partial(_mask, drawn, image, file, path) if drawn else None
        load_prompts = partial(_boxes, boxes, image.size, file, path) if boxes else None
        share = None
        if image.size is not None and all(isinstance(a.get("area"), (int, float)) for a in group):
            share = sum(a["area"] for a in group) / (image.size[0] * image.size[1])
        yield SupportExample(label, file, load, value=1, share=share, load_prompts=load_prompts)


def _is_drawn(annotation: Any) -> bool:
    """Whether it has a segmentation; some tools write `[[]]` beside a box."""
    shape = annotation.get("segmentation")
    return any(part != [] for part in shape) if isinstance(shape, list) else bool(shape)


def _mask(group: list[Any], image: _Image, file: Path, path: Path) -> ImageLike:
    """All annotations of a label in an image as one mask."""
    size = image.size or read_image_size(file)
    mask: NDArray[np.bool_] = np.zeros(size[::-1], np.bool_)
    for annotation in group:
        where, shape = f"annotation {annotation.get('id', '?')} of {path}", annotation["segmentation"]
        if isinstance(shape, dict):
            mask |= mask_of_rle(shape, size, where)
        elif isinstance(shape, list):
            flat = shape and not isinstance(shape[0], (list, dict))  # one polygon that was not put into a list
            mask |= fill_polygons([shape] if flat else shape, size, where)
        else:
            raise InvalidSupport(f"{where} has a segmentation that is neither polygons nor run lengths: {shape!r:.60}")
    return mask.astype(np.uint8)


def _boxes(group: list[Any], size: tuple[int, int] | None, file: Path, path: Path) -> tuple[Prompt, ...]:
    """Box prompts of annotations without segmentation; COCO's boxes are x, y, width, height."""
    prompts = []
    turn = _turn(size, file, path)
    for annotation in group:
        where, box = f"annotation {annotation.get('id', '?')} of {path}", annotation["bbox"]
        try:
            x, y, width, height = (float(v) for v in box)
            prompts.append(Prompt.of(box=_turned((x, y, x + width, y + height), size, turn)))
        except (TypeError, ValueError, OverflowError, InvalidSupport):
            raise InvalidSupport(f"{where} has the bbox {box!r:.60}: expected x, y, width, height") from None
    return tuple(prompts)


def _turn(size: tuple[int, int] | None, file: Path, path: Path) -> int:
    """The EXIF orientation by which boxes are to be turned: 1 where they are drawn on the upright image.

    As masks are: what fits the image as stored, and not upright, was drawn before turning.
    """
    upright, turn = read_image_header(file)
    if size is None or size == upright:
        return 1
    if upright_size(size, turn) == upright:
        return turn
    raise InvalidSupport(
        f"{path} says that {file} is {size[0]}x{size[1]}, and it is {upright[0]}x{upright[1]}: boxes would lie "
        "elsewhere; give the images that were annotated"
    )


def _turned(box: tuple[float, float, float, float], size: tuple[int, int] | None, turn: int) -> tuple[float, ...]:
    if turn < 5 or size is None:
        return box
    x0, y0, x1, y1 = box
    left, right = (size[1] - y1, size[1] - y0) if turn in (6, 7) else (y0, y1)
    top, bottom = (size[0] - x1, size[0] - x0) if turn in (7, 8) else (x0, x1)
    return left, top, right, bottom


def _image(entry: Any, path: Path) -> _Image:
    name = _key(entry, "file_name", path)
    size = (entry["width"], entry["height"]) if entry.get("width") and entry.get("height") else None
    return _Image(str(name), None if size is None else check_size(size, f"image {name} in {path}"))


def _key(entry: Any, key: str, path: Path) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (int, str)):
        raise InvalidSupport(f"{path} has an entry without {key}: {entry!r:.80}; export it again as COCO JSON")
    # Some tools write a number here and a text there.
    return int(value) if isinstance(value, str) and key.endswith("id") and value.isdecimal() else value


class CocoWriter(Writer):
    """One file with images, annotations (with `score`) and categories (numbered from 1).

    Entries wait in temporary files without names, so memory does not grow with the images and a run that is killed
    leaves nothing behind.
    """

    def __init__(self, out: Path, labels: LabelNumbers, *, run_lengths: bool) -> None:
        self._path = out / ("coco_rle.json" if run_lengths else "coco.json")
        self._labels, self._run_lengths = labels, run_lengths
        make_folder(out)
        self._images, self._annotations = _Entries(out), _Entries(out)

    def add(self, image: MaskedImage) -> int:
        """Note the image and its annotations."""
        record = image.record
        width, height = record.size
        image_id = self._images.count + 1
        self._images.add({"id": image_id, "file_name": record.known_as, "width": width, "height": height})
        for label in image.masks:
            for segmentation, area, box in self._shapes(image, label):
                entry = {
                    "id": self._annotations.count + 1,
                    "image_id": image_id,
                    "category_id": self._labels.number(label) + 1,
                    "segmentation": segmentation,
                    "area": area,
                    "bbox": box,
                    "iscrowd": 0,
                    "score": round(record.score(label), 4),
                }
                self._annotations.add(entry)
        return 0

    def _shapes(self, image: MaskedImage, label: str) -> Iterator[tuple[Any, float, list[float]]]:
        """Segmentation, area and box of each annotation of a label."""
        size = image.record.size
        split = image.options.split
        if not self._run_lengths:
            found = image.regions(label)
            for group in ([region] for region in found) if split else [found] if found else []:
                yield _polygons(group), round(sum(region.area for region in group), 2), _box(group)
        elif split or image.options.min_area > 0:
            found = image.regions(label, exact=True)
            for group in ([region] for region in found) if split else [found] if found else []:
                yield rle_entry(rle_of_regions(group, size))
        else:
            yield rle_entry(rle_of_mask(image.masks[label]))

    def finish(self) -> int:
        """Write the file: all or nothing."""
        about = {"description": f"{COCO_MARK}: one category a label, `score` in [0, 1]", "version": "1.0"}
        categories = [
            {"id": i, "name": name, "supercategory": "object"} for i, name in enumerate(self._labels.names, 1)
        ]
        with replacing(self._path) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.write(f'{{"info": {json.dumps(about)},\n"categories": {json.dumps(categories)},\n"images": [\n')
            self._images.pour(file)
            file.write('],\n"annotations": [\n')
            self._annotations.pour(file)
            file.write("]}\n")
        return 1

    def close(self) -> None:
        """The temporary files vanish."""
        self._images.file.close()
        self._annotations.file.close()


class _Entries:
    """JSON values in a temporary file, joined by commas."""

    def __init__(self, folder: Path) -> None:
        self.count = 0
        try:
            self.file: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", dir=folder)  # noqa: SIM115 - kept open
        except OSError as error:
            raise OutputError(f"cannot write in {folder}: {error.strerror or error}; choose another") from error

    def add(self, entry: dict[str, Any]) -> None:
        try:
            self.file.write((",\n" if self.count else "") + json.dumps(entry))
        except OSError as error:
            raise OutputError(f"cannot write annotations: {error.strerror or error}; free space") from error
        self.count += 1

    def pour(self, target: IO[str]) -> None:
        self.file.seek(0)
        shutil.copyfileobj(self.file, target)


def _polygons(group: list[Polygon]) -> list[list[float]]:
    # COCO unites the polygons of an annotation, so a hole cannot be one of them: it is cut into its region's outline.
    return [[round(float(value), 2) for value in one_ring(region).ravel()] for region in group]


def _box(group: list[Polygon]) -> list[float]:
    bounds = np.array([region.bounds for region in group])
    left, top = bounds[:, :2].min(0)
    right, bottom = bounds[:, 2:].max(0)
    return [round(float(value), 2) for value in (left, top, right - left, bottom - top)]
