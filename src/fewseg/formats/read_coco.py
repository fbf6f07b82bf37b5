"""Examples from COCO JSON.

A label is a category; all its annotations in an image (instances and crowds; polygons and run lengths, compressed or
not) make one mask. Annotations with a `bbox` and no segmentation are boxes, which `fewseg.inference.interactive`
outlines. Images are looked for by their `file_name`, and by its last part, in the folder given, beside the JSON, in
`images/` beside it and one folder up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidSupport
from fewseg.formats.examples import SupportExample, Supports, chosen
from fewseg.formats.rasterise import check_size, fill_polygons, fill_run_lengths
from fewseg.images import decode as decoding
from fewseg.images import read_image_header, read_image_size
from fewseg.images.decode import ImageLike
from fewseg.images.prompts import Prompt


@dataclass(frozen=True)
class _Picture:
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
    pictures = {_key(i, "id", path): _picture(i, path) for i in content["images"]}
    groups: dict[tuple[Any, str], list[Any]] = {}
    for annotation in content["annotations"]:
        place, category = _key(annotation, "image_id", path), _key(annotation, "category_id", path)
        about = f"annotation {annotation.get('id', '?')} of {path}"
        if place not in pictures or category not in names:
            missing = f"image {place!r}" if place not in pictures else f"category {category!r}"
            raise InvalidSupport(f"{about} is of {missing}, which the file does not list: export it again")
        if _is_drawn(annotation) or annotation.get("bbox"):
            groups.setdefault((place, names[category]), []).append(annotation)
    if not groups:
        raise InvalidSupport(f"{path} has neither segmentations nor boxes: draw polygons, masks or boxes")
    # Labels in the order of their categories, images in the order of the file.
    order = {label: i for i, label in enumerate(names.values())}
    places = {place: i for i, place in enumerate(pictures)}
    keys = sorted(groups, key=lambda key: (order[key[1]], places[key[0]]))
    found = _examples(path, images, pictures, {key: groups[key] for key in keys if not labels or key[1] in labels})
    return Supports("COCO JSON", chosen(found, (label for _, label in keys), labels, shots))


def _examples(
    path: Path, images: Path | None, pictures: dict[Any, _Picture], groups: dict[tuple[Any, str], list[Any]]
) -> Iterator[SupportExample]:
    owners: dict[Path, Any] = {}
    for (place, label), group in groups.items():
        image = pictures[place]
        file = find_image(image.file_name, path, images)
        if owners.setdefault(file, place) != place:
            raise InvalidSupport(
                f"{path} lists {pictures[owners[file]].file_name} and {image.file_name}, and both would be {file}: "
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


def _mask(group: list[Any], image: _Picture, file: Path, path: Path) -> ImageLike:
    """All annotations of a label in an image as one mask."""
    size = image.size or read_image_size(file)
    mask: NDArray[np.bool_] = np.zeros(size[::-1], np.bool_)
    for annotation in group:
        where, shape = f"annotation {annotation.get('id', '?')} of {path}", annotation["segmentation"]
        if isinstance(shape, dict):
            mask |= fill_run_lengths(shape, size, where)
        elif isinstance(shape, list):
            flat = shape and not isinstance(shape[0], (list, dict))  # one polygon that was not put into a list
            mask |= fill_polygons([shape] if flat else shape, size, where)
        else:
            raise InvalidSupport(f"{where} has a segmentation that is neither polygons nor run lengths: {shape!r:.60}")
    return mask.astype(np.uint8)


def _boxes(group: list[Any], size: tuple[int, int] | None, file: Path, path: Path) -> tuple[Prompt, ...]:
    """Annotations without segmentation as marks; COCO's boxes are x, y, width, height."""
    marks = []
    turn = _turn(size, file, path)
    for annotation in group:
        where, box = f"annotation {annotation.get('id', '?')} of {path}", annotation["bbox"]
        try:
            x, y, width, height = (float(v) for v in box)
            marks.append(Prompt.of(box=_turned((x, y, x + width, y + height), size, turn)))
        except (TypeError, ValueError, OverflowError, InvalidSupport):
            raise InvalidSupport(f"{where} has the bbox {box!r:.60}: expected x, y, width, height") from None
    return tuple(marks)


def _turn(size: tuple[int, int] | None, file: Path, path: Path) -> int:
    """The EXIF orientation by which boxes are to be turned: 1 where they are drawn on the upright image.

    As masks are: what fits the image as stored, and not upright, was drawn before turning.
    """
    upright, turn = read_image_header(file)
    if size is None or size == upright:
        return 1
    if decoding.upright_size(size, turn) == upright:
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


def _picture(entry: Any, path: Path) -> _Picture:
    name = _key(entry, "file_name", path)
    size = (entry["width"], entry["height"]) if entry.get("width") and entry.get("height") else None
    return _Picture(str(name), None if size is None else check_size(size, f"image {name} in {path}"))


def _key(entry: Any, key: str, path: Path) -> Any:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (int, str)):
        raise InvalidSupport(f"{path} has an entry without {key}: {entry!r:.80}; export it again as COCO JSON")
    # Some tools write a number here and a text there.
    return int(value) if isinstance(value, str) and key.endswith("id") and value.isdecimal() else value


def find_image(name: str, path: Path, images: Path | None) -> Path:
    """The image that a JSON file at `path` calls `name`; raises `InvalidSupport` saying where it was looked for."""
    parts = PurePosixPath(name.replace("\\", "/"))
    beside = path.parent
    folders = [images] if images is not None else [beside, beside / "images", beside.parent, beside.parent / "images"]
    # The whole path anywhere goes before the bare name anywhere: another image may be called the same.
    for candidate in (*(folder / parts for folder in folders), *(folder / parts.name for folder in folders)):
        if candidate.is_file():
            return candidate
    looked = str(images) if images is not None else f"{beside} and its images/, and one folder up"
    raise InvalidSupport(f"image {name} of {path} is not in {looked}: give its folder with --images")
