"""Results as one polygon file an image: YOLO, labelme, GeoJSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from shapely import MultiPolygon
from shapely.geometry import mapping
from shapely.geometry.polygon import orient

from fewseg.core.errors import InvalidImage
from fewseg.core.files import make_folder, write_text
from fewseg.formats.manifest import YOLO_MARK, write_correctable
from fewseg.formats.page import Labels, Page, copy_image
from fewseg.formats.polygons import one_ring

_LABELME: Final = "5.5.0"
"""The version of labelme whose files these are."""


class YoloWriter:
    """`yolo/`: a data set for YOLO's segmentation models.

    data.yaml, images/NAME.jpg and labels/NAME.txt, with a line `CLASS x1 y1 x2 y2 ...` for every region, coordinates
    as shares of width and height; holes are cut into the outline. An image without labels has an empty file. Images
    that somebody moved with their labels, to validate on them, stay where they are, and so does what data.yaml says of
    folders.
    """

    def __init__(self, out: Path, labels: Labels) -> None:
        self._out, self._labels = out / "yolo", labels
        here = self._out / "labels"
        self._moved = {
            path.stem: path
            for path in sorted(self._out.rglob("*.txt"))
            if "labels" in path.relative_to(self._out).parts[:-1] and path.parent != here
        }
        make_folder(here)
        make_folder(self._out / "images")

    def add(self, page: Page) -> int:
        """The label file, and the image where images are copied."""
        record, files = page.record, 1
        target = self._moved.get(record.name, self._out / "labels" / f"{record.name}.txt")
        if page.options.copy_images != "never" and record.name not in self._moved:
            source = page.needed_image("a copy for YOLO")
            copy_image(source, self._out / "images" / f"{record.name}{source.suffix.lower()}")
            files += 1
        lines = []
        for label in page.masks:
            for region in page.regions(label):
                corners = (one_ring(region) / record.size).clip(0, 1)
                lines.append(f"{self._labels.number(label)} " + " ".join(f"{v:.7g}" for v in corners.ravel()))
        write_text(target, "".join(line + "\n" for line in lines))
        return files

    def finish(self) -> int:
        """data.yaml; without `path`, folders are beside the file."""
        names = "".join(f"  {i}: {_quoted(name)}\n" for i, name in enumerate(self._labels.names))
        head = f"{YOLO_MARK}: move some images (and their labels) to a val folder before training.\n"
        text = f"names:{' {}' if not names else ''}\n{names}"
        write_text(self._out / "data.yaml", head + self._folders() + text)
        return 1

    def _folders(self) -> str:
        """Lines about folders: those that are there, or one folder for everything."""
        try:
            lines = (self._out / "data.yaml").read_text("utf-8").splitlines()
        except (OSError, ValueError):
            lines = []
        kept = [line for line in lines if line.startswith(("path:", "train:", "val:", "test:"))]
        return "".join(f"{line}\n" for line in kept) or "train: images\nval: images\n"

    def close(self) -> None:
        """Nothing is held."""


def _quoted(name: str) -> str:
    """As YAML reads it: like JSON, but what is beyond 16 bits is one number there, not a pair."""
    escaped = (json.dumps(c)[1:-1] if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in name)
    return f'"{"".join(escaped)}"'


class LabelmeWriter:
    """`labelme/NAME.json`: a polygon for every region, holes cut into the outline; opens in labelme for correction."""

    def __init__(self, out: Path) -> None:
        self._out = make_folder(out / "labelme")

    def add(self, page: Page) -> int:
        """The JSON file, and the image where all images are copied."""
        record, files = page.record, 1
        path = record.known_as
        if record.image is not None:
            path = _pointing_to(record.image, self._out)
        if page.options.copy_images == "always":
            source = page.needed_image("a copy for labelme")
            path = f"{record.name}{source.suffix.lower()}"
            copy_image(source, self._out / path)
            files += 1
        content: dict[str, Any] = {
            "version": _LABELME,
            "flags": {},
            "shapes": [
                self._shape(label, f"score {record.score(label):.3f}", one_ring(region).round(2).tolist())
                for label in page.masks
                for region in page.regions(label)
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

    def finish(self) -> int:
        """Nothing is left to write."""
        return 0

    def close(self) -> None:
        """Nothing is held."""


class GeoJsonWriter:
    """`geojson/NAME.geojson`: a feature collection in pixels (x right, y down) with holes, label and score.

    Like the polygons that QuPath and other viewers of large images exchange; the coordinates are no longitudes.
    """

    def __init__(self, out: Path) -> None:
        self._out = make_folder(out / "geojson")

    def add(self, page: Page) -> int:
        """One file: a feature a label (a multi-polygon), or a region where annotations are split."""
        features = []
        for label in page.masks:
            turned: list[Any] = [orient(region) for region in page.regions(label)]
            shapes = turned if page.options.split else [MultiPolygon(turned)] if turned else []
            about = {
                "label": label,
                "score": round(page.record.score(label), 4),
                "color": list(page.labels.colours[label]),
            }
            features += [{"type": "Feature", "properties": about, "geometry": mapping(shape)} for shape in shapes]
        width, height = page.record.size
        content = {
            "type": "FeatureCollection",
            "features": features,
            "picture": {"file_name": page.record.known_as, "width": width, "height": height},
        }
        return write_correctable(self._out / f"{page.record.name}.geojson", content, _features)

    def finish(self) -> int:
        """Nothing is left to write."""
        return 0

    def close(self) -> None:
        """Nothing is held."""


def _shapes(content: dict[str, Any]) -> Any:
    """What a person changes in labelme, which fills in keys of its own."""
    return [[shape.get(key) for key in ("label", "points", "shape_type")] for shape in content["shapes"]]


def _features(content: dict[str, Any]) -> Any:
    return [[feature["geometry"], feature["properties"]["label"]] for feature in content["features"]]


def _pointing_to(image: Path, folder: Path) -> str:
    """The path from the folder to the image, as labelme wants it; absolute where there is none (other drives)."""
    try:
        return Path(os.path.relpath(image.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return image.resolve().as_posix()
    except OSError as error:
        raise InvalidImage(f"{image}: {error.strerror or error}; check the path of the image") from error
