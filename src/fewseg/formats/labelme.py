"""labelme's JSON files, one an image: examples read from them, masks written as them.

Reading: shapes that cover an area count (polygon, rectangle, oriented rectangle, circle, mask); lines and points are
left out with a warning. All shapes of a label make one mask; `__ignore__` marks pixels that are ignored. The image is
the embedded `imageData`, or else the file `imagePath`, relative to the JSON.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidImage, InvalidSupport
from fewseg.core.files import make_folder
from fewseg.core.prediction import IGNORE
from fewseg.formats.examples import SupportExample, Supports, choose_examples, find_image
from fewseg.formats.manifest import write_correctable
from fewseg.formats.polygons import one_ring
from fewseg.formats.rasterise import check_size, fill_circle, fill_polygons
from fewseg.formats.writer import MaskedImage, Writer, copy_image
from fewseg.images import decode as decoding
from fewseg.images import read_image_size
from fewseg.images.decode import ImageLike
from fewseg.images.kinds import FORMATS

log = logging.getLogger(__name__)

_IGNORED: Final = "__ignore__"
_BACKGROUND: Final = "_background_"
_VERSION: Final = "5.5.0"
"""Version of labelme whose files are written."""
_AREAS: Final = ("polygon", "rectangle", "oriented_rectangle", "rotation", "circle", "mask")


def is_labelme(content: Any) -> bool:
    """Whether parsed JSON looks like a file of labelme."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def read_labelme(
    files: Sequence[tuple[Path, Any]], images: Path | None, labels: tuple[str, ...] = (), shots: int = 0
) -> Supports:
    """The examples in parsed labelme files with their paths; raises `InvalidSupport`."""
    shapes = [(path, content, _by_label(path, content)) for path, content in files]
    known = sorted({label for _, _, groups in shapes for label in groups} - {_IGNORED, _BACKGROUND})
    if not known:
        raise InvalidSupport(
            f"{files[0][0].parent if len(files) > 1 else files[0][0]} has no shapes that cover an area"
        )
    wanted = [label for label in known if not labels or label in labels]
    found = (example for label in wanted for example in _examples(label, shapes, images))
    return Supports("labelme", choose_examples(found, known, labels, shots))


def _examples(
    label: str, files: Sequence[tuple[Path, Any, dict[str, list[Any]]]], images: Path | None
) -> Iterator[SupportExample]:
    for path, content, groups in files:
        if label in groups:
            image = _image(path, content, images)
            load = partial(_mask, path, content, groups[label], groups.get(_IGNORED, []), image)
            yield SupportExample(label, image, load, value=1)


def _by_label(path: Path, content: Any) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for shape in content["shapes"]:
        if not isinstance(shape, dict) or not isinstance(shape.get("label"), str) or not shape["label"].strip():
            raise InvalidSupport(f"{path} has a shape without label: {shape!r:.80}")
        if shape.get("shape_type", "polygon") in _AREAS:
            groups.setdefault(shape["label"], []).append(shape)
        else:
            log.warning("%s: a %s covers no area and is left out", path, shape.get("shape_type"))
    return groups


def _image(path: Path, content: Any, images: Path | None) -> Path | Image.Image:
    if not content.get("imageData"):
        return find_image(str(content["imagePath"]), path, images)
    try:
        data = json.loads(path.read_bytes())["imageData"]
        image: Image.Image = Image.open(io.BytesIO(base64.b64decode(data)), formats=FORMATS)
        decoding.check_pixels(image.size, f"the image in {path}", InvalidImage)
    except (ValueError, TypeError, OSError, Image.DecompressionBombError) as error:
        raise InvalidSupport(f"{path} has a damaged imageData ({error}): save it again in labelme") from error
    return image


def _mask(path: Path, content: Any, shapes: list[Any], ignored: list[Any], image: Path | Image.Image) -> ImageLike:
    """0, 1 for the label, 255 for `__ignore__` where the label is not."""
    if content.get("imageWidth") and content.get("imageHeight"):
        size = check_size((content["imageWidth"], content["imageHeight"]), str(path))
    else:
        size = image.size if isinstance(image, Image.Image) else read_image_size(image)
    mask = np.zeros(size[::-1], np.uint8)
    for shape in ignored:
        mask[_filled(shape, size, path)] = IGNORE
    for shape in shapes:
        mask[_filled(shape, size, path)] = 1
    return mask


def _filled(shape: Any, size: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    kind = shape.get("shape_type", "polygon")
    where = f"a {kind} of {shape['label']!r} in {path}"
    try:
        points = np.asarray(shape["points"], np.float64)
    except (KeyError, TypeError, ValueError):
        points = np.zeros(0)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InvalidSupport(f"{where} has points that are no pairs x, y: {shape.get('points')!r:.60}")
    if kind == "rectangle" and len(points) == 4:  # X-AnyLabeling's
        points = np.stack([points.min(0), points.max(0)])
    if kind in ("rectangle", "circle", "mask") and len(points) != 2:
        raise InvalidSupport(f"{where} has {len(points)} points: expected 2")
    if kind == "rectangle":
        (a, b), (c, d) = points
        points = np.array([(a, b), (c, b), (c, d), (a, d)])
    if kind == "circle":
        return fill_circle(points[0], points[1], size, where)
    if kind == "mask":
        return _placed(shape.get("mask"), points, size, where)
    return fill_polygons([points], size, where)


def _placed(data: Any, points: NDArray[np.float64], size: tuple[int, int], where: str) -> NDArray[np.bool_]:
    """A mask that is a PNG of the box from the first to the second point, both in it."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(data)), formats=FORMATS) as image:
            decoding.check_pixels(image.size, where, InvalidImage)
            part = np.asarray(image.convert("L")) > 0
    except (ValueError, TypeError, OSError, Image.DecompressionBombError) as error:
        raise InvalidSupport(f"{where} has a damaged mask ({error}): save it again in labelme") from error
    width, height = size
    mask = np.zeros((height, width), np.bool_)
    if not np.isfinite(points).all():
        raise InvalidSupport(f"{where} has points that are no numbers")
    left, top = (round(float(value)) for value in points.min(0))
    if left < 0 or top < 0 or left + part.shape[1] > width or top + part.shape[0] > height:
        raise InvalidSupport(
            f"{where} is {part.shape[1]}x{part.shape[0]} at ({left}, {top}), outside its image of {width}x{height}"
        )
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return mask


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
                self._shape(label, f"score {record.score(label):.3f}", one_ring(region).round(2).tolist())
                for label in image.masks
                for region in image.regions(label)
            ],
            "imagePath": path,
            "imageData": None,
            "imageHeight": record.size[1],
            "imageWidth": record.size[0],
        }
        return files - 1 + write_correctable(self._out / f"{record.name}.json", content, _shapes, indent=2)

    @staticmethod
    def _shape(label: str, description: str, points: list[list[float]]) -> dict[str, Any]:
        return {
            "label": label,
            "points": points,
            "group_id": None,
            "description": description,
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }


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
