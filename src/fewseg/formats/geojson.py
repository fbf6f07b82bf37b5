"""Masks as GeoJSON: a feature collection an image, in pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from shapely import MultiPolygon
from shapely.geometry import mapping
from shapely.geometry.polygon import orient

from fewseg.core.files import make_folder
from fewseg.formats.manifest import write_correctable
from fewseg.formats.writer import MaskedImage, Writer


class GeoJsonWriter(Writer):
    """`geojson/NAME.geojson`: a feature collection in pixels (x right, y down) with holes, label and score.

    Like the polygons that QuPath and other viewers of large images exchange; the coordinates are no longitudes.
    """

    def __init__(self, out: Path) -> None:
        self._out = make_folder(out / "geojson")

    def add(self, image: MaskedImage) -> int:
        """One file: a feature a label (a multi-polygon), or a region where annotations are split."""
        features = []
        for label in image.masks:
            turned: list[Any] = [orient(region) for region in image.regions(label)]
            shapes = turned if image.options.split else [MultiPolygon(turned)] if turned else []
            about = {
                "label": label,
                "score": round(image.record.score(label), 4),
                "color": list(image.labels.colours[label]),
            }
            features += [{"type": "Feature", "properties": about, "geometry": mapping(shape)} for shape in shapes]
        width, height = image.record.size
        content = {
            "type": "FeatureCollection",
            "features": features,
            "picture": {"file_name": image.record.known_as, "width": width, "height": height},
        }
        return write_correctable(self._out / f"{image.record.name}.geojson", content, _features)


def _features(content: dict[str, Any]) -> Any:
    return [[feature["geometry"], feature["properties"]["label"]] for feature in content["features"]]
