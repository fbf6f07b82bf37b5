"""labelme's JSON files, one an image: examples read from them, masks written as them.

Reading: shapes that cover an area count (polygon, rectangle, oriented rectangle, circle, mask; capitals do not matter,
and a shape without kind is a polygon); lines and points are left out with a warning. All shapes of a label make one
mask; `__ignore__` marks pixels that are ignored. The image is the embedded `imageData`, or else the file `imagePath`,
relative to the JSON.
"""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely import Polygon

from fewseg.core.errors import InvalidImage, InvalidSupport
from fewseg.core.files import make_folder
from fewseg.formats.annotated import AnnotatedImage, Mask, Shape, Size
from fewseg.formats.left_out import LeftOut
from fewseg.formats.manifest import write_correctable
from fewseg.formats.parse import read_text
from fewseg.formats.polygons import one_ring
from fewseg.formats.rasterise import check_size, fill_ellipse, fill_polygons, place_mask, png_mask
from fewseg.formats.reading import Reading, Request, find_image, reading_of
from fewseg.formats.writer import MaskedImage, Writer, copy_image
from fewseg.images import decode as decoding
from fewseg.images.kinds import FORMATS

_IGNORED: Final = "__ignore__"
_BACKGROUND: Final = "_background_"
_VERSION: Final = "5.5.0"
"""Version of labelme whose files are written."""
_AREAS: Final = ("polygon", "rectangle", "oriented_rectangle", "rotation", "circle", "mask")


def is_labelme(content: Any) -> bool:
    """Whether parsed JSON looks like a file of labelme."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read_labelme(files: Sequence[tuple[Path, Any]], request: Request) -> Reading:
    """The examples in parsed labelme files with their paths; raises `InvalidSupport`."""
    images = [_annotated(path, content, request) for path, content in files]
    known = sorted({shape.label for image in images for shape in image.shapes} - {_BACKGROUND})
    if not known:
        place = files[0][0].parent if len(files) > 1 else files[0][0]
        raise request.left.nothing(f"{place} has no shapes that cover an area")
    return reading_of("labelme", known, images, request)


def _annotated(path: Path, content: Any, request: Request) -> AnnotatedImage:
    shapes = []
    for entry in content["shapes"]:
        try:
            shapes += _shape(entry, path, request.left)
        except InvalidSupport as error:
            request.left.bad(error)
    name = str(content["imagePath"])
    size = (content.get("imageWidth"), content.get("imageHeight"))
    return AnnotatedImage(
        f"image {name:.200} of {path}",
        partial(_image, path, content, request.images),
        [shape for shape in shapes if shape.label != _IGNORED],
        size=check_size(size, str(path)) if all(size) else None,
        ignored=[shape for shape in shapes if shape.label == _IGNORED],
        name=name,
        upright=True,  # labelme turns images when it opens them
    )


def _shape(entry: Any, path: Path, left: LeftOut) -> list[Shape]:
    """The shape; none for one that covers no area by its kind."""
    label = entry.get("label") if isinstance(entry, dict) else None
    if not isinstance(label, (str, int, float)) or not str(label).strip():
        raise InvalidSupport(f"{path} has a shape without label: {entry!r:.80}")
    kind = str(entry.get("shape_type") or "polygon").strip().lower()
    where = f"a {kind:.40} of {str(label)!r:.80} in {path}"
    if kind not in _AREAS:
        left.kind("shapes that cover no area (lines, points ...)", where)
        return []
    return [Shape(str(label).strip(), where, partial(_filled, entry, kind, where))]


def _image(path: Path, content: Any, images: Path | None) -> Path | Image.Image:
    if not content.get("imageData"):
        return find_image(str(content["imagePath"]), path, images)
    try:
        data = json.loads(read_text(path))["imageData"]
        image: Image.Image = Image.open(io.BytesIO(base64.b64decode(data)), formats=FORMATS)
        decoding.check_pixels(image.size, f"the image in {path}", InvalidImage)
    except (ValueError, TypeError, OSError, InvalidImage, Image.DecompressionBombError) as error:
        raise InvalidSupport(f"{path} has a damaged imageData ({error}): save it again in labelme") from error
    return image


def _filled(entry: Any, kind: str, where: str, size: Size) -> Mask:
    try:
        points = np.asarray(entry["points"], np.float64)
    except (KeyError, TypeError, ValueError, OverflowError):
        points = np.zeros(0)
    if not points.size:
        raise InvalidSupport(f"{where} has no points: draw it again, or remove it")
    if points.ndim != 2 or points.shape[1] != 2:
        raise InvalidSupport(f"{where} has points that are no pairs x, y: {entry.get('points')!r:.60}")
    if kind == "rectangle" and len(points) == 4:  # X-AnyLabeling's
        points = np.stack([points.min(0), points.max(0)])
    if kind in ("rectangle", "circle", "mask") and len(points) != 2:
        raise InvalidSupport(f"{where} has {len(points)} points: expected 2")
    if kind == "rectangle":
        (a, b), (c, d) = points
        points = np.array([(a, b), (c, b), (c, d), (a, d)])
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return fill_ellipse(points[0], (radius, radius), size, where)
    if kind == "mask":
        return _placed(entry.get("mask"), points, size, where)
    return fill_polygons([points], size, where)


def _placed(data: Any, points: NDArray[np.float64], size: Size, where: str) -> Mask:
    """A mask that is a PNG with its left upper pixel at the first corner; tools disagree about the second."""
    if not np.isfinite(points).all() or np.abs(points).max() > 1e9:
        raise InvalidSupport(f"{where} has points that are no places in an image")
    try:
        part = png_mask(base64.b64decode(data), size, where)
    except (ValueError, TypeError) as error:
        raise InvalidSupport(f"{where} has a damaged mask ({error}): save it again in labelme") from error
    left, top = (round(float(value)) for value in points.min(0))
    return place_mask(part, (left, top), size, where)


class LabelmeWriter(Writer):
    """`labelme/NAME.json`: a polygon for every region, holes cut into the outline; opens in labelme for correction."""

    def __init__(self, out: Path) -> None:
        self._out = make_folder(out / "labelme")

    def add(self, image: MaskedImage) -> int:
        """The JSON file, and the image where all images are copied."""
        record, files = image.record, 1
        path = record.known_as
        if record.image is not None:
            path = _pointing_to(record.image, self._out)
        if image.options.copy_images == "always":
            source = image.needed_image("a copy for labelme")
            path = f"{record.name}{source.suffix.lower()}"
            copy_image(source, self._out / path)
            files += 1
        content: dict[str, Any] = {
            "version": _VERSION,
            "flags": {},
            "shapes": [
                self._shape(label, f"score {score:.3f}", one_ring(region).round(2).tolist(), group_id)
                for label in image.masks
                for group_id, score, region in _outlines(image, label)
            ],
            "imagePath": path,
            "imageData": None,
            "imageHeight": record.size[1],
            "imageWidth": record.size[0],
        }
        return files - 1 + write_correctable(self._out / f"{record.name}.json", content, _shapes, indent=2)

    @staticmethod
    def _shape(label: str, description: str, points: list[list[float]], group_id: int | None) -> dict[str, Any]:
        return {
            "label": label,
            "points": points,
            "group_id": group_id,
            "description": description,
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }


def _outlines(image: MaskedImage, label: str) -> Iterator[tuple[int | None, float, Polygon]]:
    """Group, score and outline of every region; regions of one object share a group, as labelme has it."""
    if label not in image.record.objects:
        yield from ((None, image.record.score(label), region) for region in image.regions(label))
        return
    for number, (score, group) in enumerate(image.shapes(label), 1):
        yield from ((number if len(group) > 1 else None, score, region) for region in group)


def _shapes(content: dict[str, Any]) -> Any:
    """What a person changes in labelme, which fills in keys of its own."""
    return [[shape.get(key) for key in ("label", "points", "shape_type")] for shape in content["shapes"]]


def _pointing_to(image: Path, folder: Path) -> str:
    """The path from the folder to the image, as labelme wants it; absolute where there is none (other drives)."""
    try:
        return Path(os.path.relpath(image.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return image.resolve().as_posix()
    except OSError as error:
        raise InvalidImage(f"{image}: {error.strerror or error}; check the path of the image") from error
