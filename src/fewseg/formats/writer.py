"""Shared by the writers of all formats: numbers and colours of labels, an image's polygons and overlay, saving."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely import Polygon

from fewseg.core.errors import InvalidImage
from fewseg.core.files import make_folder, replacing
from fewseg.core.prediction import Prediction
from fewseg.formats.polygons import regions
from fewseg.formats.records import ExportOptions, MaskRecord
from fewseg.images import open_image
from fewseg.images.draw import OVERLAY_SIDE, Colour, label_colours, overlay_of


class LabelNumbers:
    """Numbers of labels from 0, in the order given or of first appearance, and their colours."""

    def __init__(self, labels: tuple[str, ...] = (), colours: Mapping[str, Colour] | None = None) -> None:
        """`colours` are those that were chosen; other labels get one by their number."""
        self._chosen = dict(colours or {})
        self.names: list[str] = list(dict.fromkeys(labels))
        self._numbers = {name: i for i, name in enumerate(self.names)}
        self._colours: dict[str, Colour] = {}

    def number(self, label: str) -> int:
        """The label's number; a new label gets the next one."""
        if label not in self._numbers:
            self._numbers[label] = len(self.names)
            self.names.append(label)
        return self._numbers[label]

    @property
    def colours(self) -> dict[str, Colour]:
        """Colour of every label that has a number."""
        if len(self._colours) != len(self.names):
            self._colours = {**label_colours(self.names), **{k: v for k, v in self._chosen.items() if k in self.names}}
        return self._colours


class MaskedImage:
    """One image with its masks on the way through all writers, which share what is computed for it."""

    def __init__(self, record: MaskRecord, labels: LabelNumbers, options: ExportOptions) -> None:
        self.record, self.labels, self.options = record, labels, options
        for label in record.masks:
            labels.number(label)
        filled = {label: np.asarray(mask, np.bool_) for label, mask in record.masks.items() if mask.any()}
        self.masks: dict[str, NDArray[np.bool_]] = {
            label: mask for label, mask in filled.items() if options.absent or record.present.get(label, True)
        }
        """Masks that are written: those that are not empty, of labels that are present or where absent ones are too."""
        self.absent = len(filled) - len(self.masks)
        """Number of masks of labels that are probably absent."""
        self._exact: dict[str, list[Polygon]] = {}
        self._simple: dict[str, list[Polygon]] = {}

    def regions(self, label: str, *, exact: bool = False) -> list[Polygon]:
        """The label's regions as polygons, simplified as the options say unless `exact`."""
        tolerance = 0.0 if exact else self.options.tolerance
        known = self._simple if tolerance > 0 else self._exact
        if label not in known:
            known[label] = regions(self.masks[label], tolerance=tolerance, min_area=self.options.min_area)
        return known[label]

    def shapes(self, label: str, *, exact: bool = False) -> Iterator[tuple[float, list[Polygon]]]:
        """Score and regions of each annotation of a label, the largest region first.

        That is one for each of its single objects where they are known; else one for each region where those are split,
        or one for all.
        """
        objects = self.record.objects.get(label)
        if objects is not None:
            tolerance = 0.0 if exact else self.options.tolerance
            for one in objects:
                found = regions(one.crop, tolerance=tolerance, min_area=self.options.min_area, corner=one.box[:2])
                if found:
                    yield one.score, found
            return
        found, score = self.regions(label, exact=exact), self.record.score(label)
        for group in ([region] for region in found) if self.options.split else [found] if found else []:
            yield score, group

    @cached_property
    def overlay(self) -> Image.Image:
        """The masks on the image; of huge images on a smaller copy. Raises `InvalidImage` without an image."""
        image = open_image(self.needed_image("an overlay"), at_least=OVERLAY_SIDE)
        self._check_size(image.size)
        scores = {label: self.record.score(label) for label in self.masks}
        found = Prediction(self.masks, {}, self.label_map, scores, dict.fromkeys(self.masks, True))
        return overlay_of(image.image, found, self.labels.colours)

    @cached_property
    def label_map(self) -> NDArray[np.uint16]:
        """(height, width): 0 background, i + 1 the i-th of `masks`; overlaps go to the label with the highest score."""
        index = np.zeros(self.record.size[::-1], np.uint16)
        numbers = {label: i for i, label in enumerate(self.masks, 1)}
        for label in sorted(self.masks, key=self.record.score):
            index[self.masks[label]] = numbers[label]
        return index

    def needed_image(self, what: str) -> Path:
        """The image's file; raises `InvalidImage` where the record has none or it is gone."""
        image = self.record.image
        if image is None:
            raise InvalidImage(f"{what} of {self.record.name} needs the image: give records with `image`")
        if not image.is_file():
            raise InvalidImage(f"{image} is gone, and {what} needs it: put the image back, or leave that out")
        return image

    def _check_size(self, size: tuple[int, int]) -> None:
        if size != self.record.size:
            have, want = (f"{width}x{height}" for width, height in (size, self.record.size))
            raise InvalidImage(
                f"{self.record.image} is {have} now, its masks are {want}: put the old image back, or segment again"
            )


class Writer(ABC):
    """Writes one format."""

    @abstractmethod
    def add(self, image: MaskedImage) -> int:
        """Write one image; gives the number of files that are complete with it."""

    def finish(self) -> int:
        """Write what is about all images; gives the number of files."""
        return 0

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of everything; after a failure too."""


def copy_image(source: Path, target: Path) -> None:
    """A copy of the image with its time of change, unless the very same is there; raises `OutputError`."""
    make_folder(target.parent)
    try:
        old, new = target.stat(), source.stat()
        if os.path.samestat(old, new) or (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns):
            return
    except OSError:
        pass
    with replacing(target) as temporary:
        shutil.copy2(source, temporary)
