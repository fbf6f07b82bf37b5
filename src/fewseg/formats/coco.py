"""COCO JSON: examples read from it, masks written as it, with polygons or run lengths.

Reading: a label is a category; all its annotations in an image (instances and crowds; polygons and run lengths,
compressed or not) make one mask. Annotations with a `bbox` and no segmentation are box prompts
(`fewseg.inference.interactive`). Images are looked for by their `file_name`, and by its last part, in the folder given,
beside the JSON, in `images/` beside it and one folder up. Label Studio multiplies its per cent by the size that an
image has before turning: its polygons are drawn out to the upright image.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from shapely import Polygon

from fewseg.core.errors import InvalidSupport, OutputError
from fewseg.core.files import make_folder, replacing
from fewseg.formats.annotated import AnnotatedImage, Box, Mask, Shape, Size
from fewseg.formats.left_out import LeftOut
from fewseg.formats.manifest import COCO_MARK
from fewseg.formats.polygons import one_ring
from fewseg.formats.rasterise import check_size, corners, fill_polygons
from fewseg.formats.reading import Reading, Request, find_image, reading_of
from fewseg.formats.rle import mask_of_rle, rle_entry, rle_of_mask, rle_of_regions
from fewseg.formats.writer import LabelNumbers, MaskedImage, Writer
from fewseg.images.decode import MAX_PIXELS


def is_coco(content: Any) -> bool:
    """Whether parsed JSON looks like a COCO data set."""
    return isinstance(content, dict) and all(isinstance(content.get(k), list) for k in ("images", "annotations"))


def read_coco(path: Path, content: Any, request: Request) -> Reading:
    """The examples in parsed COCO JSON from `path`; raises `InvalidSupport` for what is not as documented."""
    names = _categories(path, content, request.left)
    drawn: set[str] = set()
    images = _annotated(path, content, names, drawn, request)
    if not drawn:
        raise request.left.nothing(f"{path} has neither segmentations nor boxes: draw polygons, masks or boxes")
    return reading_of("COCO JSON", [name for name in names.values() if name in drawn], images, request)


def _categories(path: Path, content: Any, left: LeftOut) -> dict[Any, str]:
    categories = content.get("categories")
    if not isinstance(categories, list) or not categories:
        raise InvalidSupport(f"{path} has no categories: a COCO file names its labels there")
    names: dict[Any, str] = {}
    for entry in categories:
        try:
            names[_key(entry, "id", path)] = str(_key(entry, "name", path)).strip()
        except InvalidSupport as error:
            left.bad(error)
    if list(names.values()) == ["default"] and categories[0].get("keypoints"):
        raise InvalidSupport(
            f"{path} has the category 'default' alone: Label Studio writes that where a project has KeyPointLabels; "
            "export it as JSON instead"
        )
    return names


def _annotated(
    path: Path, content: Any, names: dict[Any, str], drawn: set[str], request: Request
) -> list[AnnotatedImage]:
    """The images with their shapes of wanted labels; adds the labels of all shapes to `drawn`."""
    left, info = request.left, content.get("info")
    stretched = isinstance(info, dict) and info.get("contributor") == "Label Studio"
    listed: dict[Any, AnnotatedImage] = {}
    broken: set[Any] = set()
    for entry in content["images"]:
        try:
            place = _key(entry, "id", path)
            broken.add(place)
            listed[place] = _image(entry, path, request.images, upright=stretched)
        except InvalidSupport as error:
            left.bad(error)
    shapes: dict[Any, list[Shape]] = {}
    for annotation in content["annotations"]:
        try:
            place, category = _key(annotation, "image_id", path), _key(annotation, "category_id", path)
            where = f"annotation {annotation.get('id', '?')!s:.40} of {path}"
            if place in listed and category in names:
                label, size = names[category], listed[place].size if stretched else None
                shape = _shape(annotation, label, where, size)
                if shape is None:
                    left.kind("annotations without segmentation and box", where)
                    continue
                drawn.add(label)
                if not request.labels or label in request.labels:  # a large file is of many
                    shapes.setdefault(place, []).append(shape)
            elif place in listed or place not in broken:
                missing = f"image {place!r:.60}" if place not in listed else f"category {category!r:.60}"
                left.bad(f"{where} is of {missing}, which the file does not list: export it again")
        except InvalidSupport as error:
            left.bad(error)
    return [replace(image, shapes=shapes[place]) for place, image in listed.items() if place in shapes]


def _shape(annotation: dict[str, Any], label: str, where: str, stretched: Size | None) -> Shape | None:
    drawn, area = annotation.get("segmentation"), annotation.get("area")
    if any(part != [] for part in drawn) if isinstance(drawn, list) else bool(drawn):  # some write `[[]]` beside a box
        plausible = isinstance(area, (int, float)) and 0 <= area <= MAX_PIXELS
        reach = partial(_reach, drawn) if isinstance(drawn, list) else None
        fill = partial(_fill, drawn, where, stretched)
        return Shape(label, where, fill, area=float(area) if plausible else None, reach=reach)  # type: ignore[arg-type]
    box = annotation.get("bbox")
    return Shape(label, where, box=partial(_box, box)) if box else None


def _fill(drawn: Any, where: str, stretched: Size | None, size: Size) -> Mask:
    """The mask of a segmentation: polygons, run lengths compressed or not.

    Coordinates that belong to an image of the size `stretched` are drawn out to `size`.
    """
    if isinstance(drawn, dict):
        return mask_of_rle(drawn, size, where)
    if not isinstance(drawn, list):
        raise InvalidSupport(f"{where} has a segmentation that is neither polygons nor run lengths: {drawn!r:.60}")
    polygons = _polygons_in(drawn)
    if stretched is not None and stretched != size:
        factors = np.array(size) / stretched
        polygons = [(corners(polygon, where) * factors).reshape(-1).tolist() for polygon in polygons]
    return fill_polygons(polygons, size, where)


def _polygons_in(drawn: list[Any]) -> list[Any]:
    flat = drawn and not isinstance(drawn[0], (list, dict))  # one polygon that was not put into a list
    return [drawn] if flat else drawn


def _reach(drawn: list[Any]) -> Size:
    """How far the corners reach; nothing for what cannot be drawn."""
    try:
        points = np.concatenate([corners(polygon, "") for polygon in _polygons_in(drawn)])
        return int(points[:, 0].max()), int(points[:, 1].max())
    except (InvalidSupport, ValueError, OverflowError):
        return 0, 0


def _box(box: Any, _: Size) -> Box:
    """COCO's boxes are x, y, width, height."""
    try:
        x, y, width, height = (float(v) for v in box)
    except (TypeError, ValueError, OverflowError):
        raise InvalidSupport(f"the bbox is {box!r:.60}: expected x, y, width, height") from None
    return x, y, x + width, y + height


def _image(entry: Any, path: Path, images: Path | None, *, upright: bool) -> AnnotatedImage:
    name = str(_key(entry, "file_name", path))
    size = (entry["width"], entry["height"]) if entry.get("width") and entry.get("height") else None
    where = f"image {name:.200} of {path}"
    stated = None if size is None else check_size(size, where)
    return AnnotatedImage(where, partial(find_image, name, path, images), size=stated, upright=upright, name=name)


def _key(entry: Any, key: str, path: Path) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (int, str)):
        raise InvalidSupport(f"{path} has an entry without {key}: {entry!r:.80}; export it again as COCO JSON")
    # Some tools write a number here and a text there.
    number = isinstance(value, str) and key.endswith("id") and len(value) < 20 and value.isdecimal()
    return int(value) if number else value


class CocoWriter(Writer):
    """One file with images, annotations (with `score`) and categories (numbered from 1): one annotation for each single
    object, or for each label and image where objects are not known.

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
            for score, segmentation, area, box in self._shapes(image, label):
                entry = {
                    "id": self._annotations.count + 1,
                    "image_id": image_id,
                    "category_id": self._labels.number(label) + 1,
                    "segmentation": segmentation,
                    "area": area,
                    "bbox": box,
                    "iscrowd": 0,
                    "score": round(score, 4),
                }
                self._annotations.add(entry)
        return 0

    def _shapes(self, image: MaskedImage, label: str) -> Iterator[tuple[float, Any, float, list[float]]]:
        """Score, segmentation, area and box of each annotation of a label."""
        options = image.options
        whole = label not in image.record.objects and not options.split
        if self._run_lengths and whole and options.min_area <= 0:
            yield image.record.score(label), *rle_entry(rle_of_mask(image.masks[label]))
            return
        for score, group in image.shapes(label, exact=self._run_lengths):
            if self._run_lengths:
                yield score, *rle_entry(rle_of_regions(group, image.record.size))
            else:
                yield score, _polygons(group), round(sum(region.area for region in group), 2), _bounds(group)

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


def _bounds(group: list[Polygon]) -> list[float]:
    bounds = np.array([region.bounds for region in group])
    left, top = bounds[:, :2].min(0)
    right, bottom = bounds[:, 2:].max(0)
    return [round(float(value), 2) for value in (left, top, right - left, bottom - top)]
