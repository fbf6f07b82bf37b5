"""GeoJSON in pixels, a feature collection an image: examples read from it, masks written as it.

Reading: what fewseg writes, and QuPath's annotations. A feature's label is its `label`, or the name of its
classification; polygons have real holes. The image is the one that the file names, or the one of the file's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from shapely import MultiPolygon
from shapely.geometry import mapping
from shapely.geometry.polygon import orient

from fewseg.core.errors import InvalidSupport
from fewseg.core.files import make_folder
from fewseg.formats.annotated import AnnotatedImage, Mask, Shape, Size
from fewseg.formats.left_out import LeftOut
from fewseg.formats.manifest import write_correctable
from fewseg.formats.rasterise import check_size, corners, fill_polygons
from fewseg.formats.reading import Reading, Request, find_image, reading_of
from fewseg.formats.writer import MaskedImage, Writer
from fewseg.images.kinds import SUFFIXES


def is_geojson(content: Any) -> bool:
    """Whether parsed JSON is a collection of features."""
    return isinstance(content, dict) and isinstance(content.get("features"), list)


def read_geojson(files: Sequence[tuple[Path, Any]], request: Request) -> Reading:
    """The examples in parsed GeoJSON files with their paths; raises `InvalidSupport`."""
    images = []
    for path, content in files:
        try:
            images.append(_annotated(path, content, request))
        except InvalidSupport as error:
            request.left.bad(error)
    labels = dict.fromkeys(shape.label for image in images for shape in image.shapes)
    if not labels:
        raise request.left.nothing(f"{files[0][0]} has no polygons with a label or classification")
    return reading_of("GeoJSON", labels, images, request)


def _annotated(path: Path, content: Any, request: Request) -> AnnotatedImage:
    about = content.get("picture")
    name, size = path.stem, None
    if isinstance(about, dict):
        name = str(about.get("file_name") or name)
        size = check_size((about.get("width"), about.get("height")), str(path)) if about.get("width") else None
    shapes: list[Shape] = []
    for number, feature in enumerate(content["features"], 1):
        try:
            shapes += _shapes(feature, f"feature {number} of {path}", request.left)
        except InvalidSupport as error:
            request.left.bad(error)
    find = partial(_find, name, path, request.images)
    return AnnotatedImage(f"image {name:.200} of {path}", find, shapes, size, name=name, upright=size is not None)


def _find(name: str, path: Path, images: Path | None) -> Path:
    if Path(name).suffix.lower() in SUFFIXES:
        return find_image(name, path, images)
    for ending in sorted(SUFFIXES):
        try:
            return find_image(name + ending, path, images)
        except InvalidSupport:
            continue
    raise InvalidSupport(f"the image {name:.200} of {path} is missing: give its folder with --images")


def _shapes(feature: Any, where: str, left: LeftOut) -> Iterator[Shape]:
    about = feature.get("properties") if isinstance(feature, dict) else None
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    if not isinstance(geometry, dict) or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        left.kind("features that cover no area (points, lines)", where)
        return
    classified = about.get("classification") if isinstance(about, dict) else None
    label = about.get("label") if isinstance(about, dict) else None
    label = label or (classified.get("name") if isinstance(classified, dict) else None)
    if not isinstance(label, str) or not label.strip():
        left.kind("features without a label or classification", where)
        return
    polygons = geometry.get("coordinates")
    parts = [polygons] if geometry["type"] == "Polygon" else polygons
    if not isinstance(parts, list) or not all(isinstance(rings, list) and rings for rings in parts):
        raise InvalidSupport(f"{where} has damaged coordinates: export it again")
    yield Shape(label.strip(), where, partial(_filled, parts, where))


def _filled(parts: list[list[Any]], where: str, size: Size) -> Mask:
    mask: Mask = np.zeros(size[::-1], np.bool_)
    for rings in parts:
        points = corners(rings[0], where)
        if not np.isfinite(points).all() or (points < -1).any() or (points > np.array(size) + 1).any():
            raise InvalidSupport(f"{where} lies outside its image of {size[0]}x{size[1]}: give the annotated image")
        mask |= fill_polygons(rings[:1], size, where) & ~fill_polygons(rings[1:], size, where)
    return mask


class GeoJsonWriter(Writer):
    """`geojson/NAME.geojson`: a feature collection in pixels (x right, y down) with holes, label and score.

    Like the polygons that QuPath and other viewers of large images exchange; the coordinates are no longitudes.
    """

    def __init__(self, out: Path) -> None:
        self._out = make_folder(out / "geojson")

    def add(self, image: MaskedImage) -> int:
        """One file: a feature an object, else a label (a multi-polygon), or a region where annotations are split."""
        features = []
        for label in image.masks:
            known = label in image.record.objects
            for number, (score, group) in enumerate(image.shapes(label), 1):
                turned: list[Any] = [orient(region) for region in group]
                about = {
                    "label": label,
                    "score": round(score, 4),
                    "color": list(image.labels.colours[label]),
                    **({"object": number} if known else {}),
                }
                one = len(turned) == 1 and (known or image.options.split)
                shape = turned[0] if one else MultiPolygon(turned)
                features.append({"type": "Feature", "properties": about, "geometry": mapping(shape)})
        width, height = image.record.size
        content = {
            "type": "FeatureCollection",
            "features": features,
            "picture": {"file_name": image.record.known_as, "width": width, "height": height},
        }
        return write_correctable(self._out / f"{image.record.name}.geojson", content, _features)


def _features(content: dict[str, Any]) -> Any:
    return [[feature["geometry"], feature["properties"]["label"]] for feature in content["features"]]
