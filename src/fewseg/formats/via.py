"""Examples from VIA 2 (VGG Image Annotator): its JSON and CSV exports and its projects.

A region's class is an attribute: the only one, or one that is called class, label and the like; without attributes all
regions are of one label, `object`. VIA writes no size of images: what lies more than a pixel outside is of another.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidSupport, one_line
from fewseg.formats.annotated import AnnotatedImage, Mask, Shape, Size
from fewseg.formats.left_out import LeftOut
from fewseg.formats.parse import read_text
from fewseg.formats.rasterise import fill_polygons
from fewseg.formats.reading import Reading, Request, find_image, reading_of

_COLUMNS: Final = ("filename", "region_shape_attributes", "region_attributes")
_CLASS: Final = ("class", "label", "name", "type", "category", "object", "class_name", "object_name", "kind")
_CORNERS: Final = 180
DEFAULT: Final = "object"


def is_via(content: Any) -> bool:
    """Whether parsed JSON looks like VIA's."""
    if not isinstance(content, dict) or not content:
        return False
    if "_via_img_metadata" in content or (isinstance(content.get("project"), dict) and "metadata" in content):
        return True
    return all(isinstance(entry, dict) and {"filename", "regions"} <= set(entry) for entry in content.values())


def are_alike(contents: Sequence[Any]) -> bool:
    """Whether parsed files are of the same images and regions, such as a project and its export."""
    listed = [content.get("_via_img_metadata", content) for content in contents]
    return all(entry == listed[0] for entry in listed)


def is_via_csv(path: Path) -> bool:
    """Whether a file begins as VIA's CSV export."""
    with path.open("rb") as stream:
        start = stream.read(400).replace(b"\0", b"")
    return b"filename" in start and b"region_shape_attributes" in start


def read_via(path: Path, content: Any, request: Request) -> Reading:
    """The examples in parsed JSON of VIA; raises `InvalidSupport`."""
    if "_via_img_metadata" not in content and isinstance(content.get("project"), dict):
        raise InvalidSupport(f"{path} is of VIA 3, which is another format: annotate in VIA 2, or export as COCO")
    options = _options(content.get("_via_attributes"))
    entries = content.get("_via_img_metadata", content)
    if not isinstance(entries, dict):
        raise InvalidSupport(f"{path} has a damaged list of images: export it again")
    files: dict[str, list[Any]] = {}
    for entry in entries.values():
        regions = entry.get("regions") if isinstance(entry, dict) else None
        listed = list(regions.values()) if isinstance(regions, dict) else regions
        if not isinstance(listed, list) or not isinstance(entry.get("filename"), str):
            request.left.bad(f"{path} has an image without file name or regions: {entry!r:.60}; export it again")
        else:
            files.setdefault(entry["filename"], []).extend(listed)
    return _reading(path, files, options, request)


def read_via_csv(path: Path, request: Request) -> Reading:
    """The examples in a CSV export of VIA; raises `InvalidSupport`."""
    files: dict[str, list[Any]] = {}
    try:
        for row in csv.DictReader(read_text(path).splitlines()):
            name, shape, attributes = (row.get(key) for key in ("filename", *_COLUMNS[1:]))
            name = name or row.get("#filename")
            if not name or shape is None or attributes is None:
                raise InvalidSupport(
                    f"{path} is not as VIA writes it (a spreadsheet may have changed it): export it again"
                )
            parsed = {"shape_attributes": json.loads(shape), "region_attributes": json.loads(attributes)}
            files.setdefault(name, []).extend([parsed] if parsed["shape_attributes"] else [])
    except (csv.Error, ValueError, RecursionError) as error:
        raise InvalidSupport(f"{path} is damaged ({one_line(error):.200}): export it again") from error
    return _reading(path, files, {}, request)


def _reading(path: Path, files: dict[str, list[Any]], options: dict[str, dict[str, str]], request: Request) -> Reading:
    regions = [region for listed in files.values() for region in listed if isinstance(region, dict)]
    attribute = _attribute(regions, path)
    if attribute is None and regions:
        request.left.note(f"regions of {path} have no attributes: their label is {DEFAULT!r}")
    images = []
    for name, listed in files.items():
        where = f"image {name:.200} of {path}"
        shapes: list[Shape] = []
        for number, region in enumerate(listed, 1):
            about = f"region {number} of {where}"
            try:
                shapes += _shapes(region, about, attribute, options, request.left)
            except InvalidSupport as error:
                request.left.bad(error)
        images.append(AnnotatedImage(where, partial(find_image, name, path, request.images), shapes, name=name))
    drawn = dict.fromkeys(shape.label for image in images for shape in image.shapes)
    if not drawn:
        raise request.left.nothing(f"{path} has no polygons, rectangles, circles or ellipses with a class")
    return reading_of("VIA", drawn, images, request)


def _options(attributes: Any) -> dict[str, dict[str, str]]:
    """For each attribute of regions with a list of options, option to text."""
    region = attributes.get("region") if isinstance(attributes, dict) else None
    found: dict[str, dict[str, str]] = {}
    for name, about in region.items() if isinstance(region, dict) else ():
        options = about.get("options") if isinstance(about, dict) else None
        if isinstance(options, dict):
            found[name] = {key: text for key, text in options.items() if isinstance(text, str) and text.strip()}
    return found


def _attribute(regions: list[dict[str, Any]], path: Path) -> str | None:
    """The attribute that is the class; None where there are no attributes."""
    given = [region.get("region_attributes") for region in regions]
    names = dict.fromkeys(key for each in given if isinstance(each, dict) for key in each)
    if len(names) <= 1:
        return next(iter(names), None)
    likely = [name for name in names if name.strip().lower() in _CLASS]
    if len(likely) != 1:
        listed = ", ".join(map(repr, names))
        raise InvalidSupport(f"{path} has regions with the attributes {listed}: call the one that is the label 'label'")
    return likely[0]


def _shapes(
    region: Any, where: str, attribute: str | None, options: dict[str, dict[str, str]], left: LeftOut
) -> Iterator[Shape]:
    """A shape for each label of a region."""
    shape = region.get("shape_attributes") if isinstance(region, dict) else None
    if not isinstance(shape, dict):
        raise InvalidSupport(f"{where} has no shape: draw it again")
    if shape.get("name") not in ("polygon", "rect", "circle", "ellipse"):
        left.kind("regions that cover no area (points, lines)", where)
        return
    labels = [DEFAULT] if attribute is None else list(_labels(region, attribute, options.get(attribute, {})))
    if not labels:
        left.kind("regions without a class", where)
    for label in labels:
        yield Shape(label, where, partial(_filled, shape, where))


def _labels(region: Mapping[str, Any], attribute: str, texts: Mapping[str, str]) -> Iterator[str]:
    given = region.get("region_attributes")
    value = given.get(attribute) if isinstance(given, dict) else None
    chosen = [key for key, checked in value.items() if checked] if isinstance(value, dict) else [value]
    for each in chosen:
        if isinstance(each, (str, int, float)) and str(each).strip():
            yield texts.get(str(each), str(each)).strip()


def _filled(shape: Mapping[str, Any], where: str, size: Size) -> Mask:
    points = _corners(shape, where)
    if not np.isfinite(points).all() or (points < -1).any() or (points > np.array(size) + 1).any():
        raise InvalidSupport(
            f"{where} lies outside its image of {size[0]}x{size[1]}: give the image that was annotated"
        )
    return fill_polygons([points.clip(0, size)], size, where)


def _corners(shape: Mapping[str, Any], where: str) -> NDArray[np.float64]:
    try:
        if shape["name"] == "polygon":
            return np.stack([np.asarray(shape[f"all_points_{axis}"], np.float64) for axis in "xy"], -1).reshape(-1, 2)
        if shape["name"] == "rect":
            x, y, width, height = (float(shape[key]) for key in ("x", "y", "width", "height"))
            return np.array([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])
        cx, cy = float(shape["cx"]), float(shape["cy"])
        rx, ry = (float(shape[key]) for key in (("r", "r") if shape["name"] == "circle" else ("rx", "ry")))
        turn = float(shape.get("theta") or 0)  # radians, clockwise
    except (KeyError, TypeError, ValueError, OverflowError):
        raise InvalidSupport(f"{where} is a damaged {shape['name']}: draw it again") from None
    angles = np.linspace(0, 2 * np.pi, _CORNERS, endpoint=False)
    points = np.stack([rx * np.cos(angles), ry * np.sin(angles)], 1)
    rotation = np.array([(np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))])
    turned: NDArray[np.float64] = points @ rotation + (cx, cy)
    return turned
