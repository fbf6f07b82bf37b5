"""Values of an export: the masks of an image, options and report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidMask, InvalidOption, unknown
from fewseg.core.objects import Objects

FORMATS: Final[dict[str, str]] = {
    "png": "masks/LABEL/NAME.png (0 and 255) and labels/NAME.png (index map with palette)",
    "coco": "coco.json, polygons",
    "coco-rle": "coco_rle.json, run lengths: exact",
    "yolo": "yolo/: data.yaml, images/, labels/NAME.txt with normalised polygons",
    "labelme": "labelme/NAME.json",
    "geojson": "geojson/NAME.geojson, polygons in pixels",
    "overlays": "overlays/NAME.jpg, masks on the image",
    "sheet": "sheet.jpg (sheet-2.jpg ...), many overlays on one page",
}
"""Name of each output format with what it writes."""


@dataclass(frozen=True)
class MaskRecord:
    """Masks of one image, on their way into files.

    Give them lazily, from a generator: an export holds one at a time.
    """

    name: str
    """Name of the image's files, without ending; different for every image of an export."""
    size: tuple[int, int]
    """(width, height) of the image, upright (after EXIF rotation)."""
    masks: Mapping[str, NDArray[np.bool_]]
    """Label to mask (height, width), True where the label is."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """Label to the score, in [0, 1], that it is present; labels without one (made by hand) count as 1."""
    present: Mapping[str, bool] = field(default_factory=dict)
    """Label to whether it is in the image at all; labels that are not named are."""
    image: Path | None = None
    """The image itself: overlays, sheets and copies need it."""
    file_name: str = ""
    """Name of the image in data sets, a relative path with `/`; the image's own name, or NAME.jpg, if empty."""
    objects: Mapping[str, Objects] = field(default_factory=dict)
    """Label to the single objects in its mask, each of which becomes an annotation; other labels become one each."""

    def __post_init__(self) -> None:
        if self.name in ("", "..") or Path(self.name).name != self.name or "\\" in self.name:
            raise InvalidOption(f"an image is called {self.name!r}: files are named so, give a name without folders")
        width, height = self.size
        for label, mask in self.masks.items():
            if mask.dtype != np.bool_:
                raise InvalidMask(f"the mask of {label!r} in {self.name} is {mask.dtype}: give bool, e.g. mask == 1")
            if mask.shape != (height, width):
                raise InvalidMask(
                    f"the mask of {label!r} in {self.name} is {mask.shape[-1]}x{mask.shape[0]}, the image "
                    f"{width}x{height}: give masks at the image's size"
                )

    @property
    def known_as(self) -> str:
        """`file_name`, or its default."""
        return self.file_name or (self.image.name if self.image is not None else f"{self.name}.jpg")

    def score(self, label: str) -> float:
        """The label's score; 1 for a label made by hand."""
        return float(self.scores.get(label, 1.0))


@dataclass(frozen=True)
class ExportOptions:
    """How masks are written in other formats; every choice concerns some of them."""

    tolerance: float = 1.0
    """Polygons leave the mask's edge by at most so many pixels, and change a region by at most 2 % of its area; 0 keeps
    every corner of every pixel."""
    min_area: float = 0.0
    """Regions, and holes, with fewer pixels than this are left out of polygons and of coco-rle."""
    split: bool = False
    """COCO, GeoJSON: an annotation for every separate region of labels without single objects, not one a label and
    image."""
    absent: bool = False
    """Also write masks of labels that are judged absent from the image (score below the threshold): they are left out
    of every format, PNG masks and label maps too."""
    copy_images: Literal["needed", "always", "never"] = "needed"
    """Copy images beside their annotations: where a format needs it (YOLO), also for labelme, or never."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 1000:
            raise InvalidOption(f"tolerance {self.tolerance:g}: give pixels, 0 for exact polygons, at most 1000")
        if not 0 <= self.min_area < math.inf:
            raise InvalidOption(f"smallest area {self.min_area:g}: give a number of pixels, 0 keeps all")


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote."""

    images: int
    files: int
    annotations: int
    """Masks of labels in images that were written: empty ones, and absent labels, are not."""
    absent: int = 0
    """Masks that were left out as their label is probably not in the image."""


def check_formats(formats: tuple[str, ...] | list[str]) -> tuple[str, ...]:
    """The formats, each once; raises `InvalidOption` for an unknown one or none."""
    for name in formats:
        if name not in FORMATS:
            raise unknown("format", name, FORMATS)
    if not formats:
        raise InvalidOption(f"no formats to write: choose from {', '.join(FORMATS)}")
    return tuple(dict.fromkeys(formats))
