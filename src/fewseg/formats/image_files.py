"""Masks as image files: binary masks, index maps, overlays, contact sheets."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from fewseg.core.files import folder_name
from fewseg.formats.writer import MaskedImage, Writer
from fewseg.images.draw import contact_sheet
from fewseg.images.encode import index_image, save_image, save_mask
from fewseg.images.read import fitted

_ON_A_SHEET: Final = 30
_COLUMNS: Final = 5
_SHEET_SIDE: Final = 360


class PngWriter(Writer):
    """`masks/LABEL/NAME.png` and `labels/NAME.png`, as `fewseg segment` writes them.

    Where masks overlap, the index map has the label with the higher score. Masks hold their score as text.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._folders: dict[str, str] = {}
        self._taken: set[str] = set()

    def add(self, image: MaskedImage) -> int:
        """Two files and more: every label's mask, empty where it is not written elsewhere, and the index map."""
        record = image.record
        numbers = [image.labels.number(label) + 1 for label in image.masks]
        index = np.array([0, *numbers], np.uint16)[image.label_map]
        nothing = np.zeros(record.size[::-1], np.bool_)
        for label in record.masks:
            if label not in self._folders:
                self._folders[label] = folder_name(label, self._taken)
            path = self._out / "masks" / self._folders[label] / f"{record.name}.png"
            save_mask(path, image.masks.get(label, nothing), label, record.score(label))
        colours = [image.labels.colours[name] for name in image.labels.names]
        drawn = index_image(index, colours[:255] if max(numbers, default=0) < 256 else colours)
        save_image(self._out / "labels" / f"{record.name}.png", drawn, "PNG")
        return 1 + len(record.masks)


class OverlayWriter(Writer):
    """`overlays/NAME.jpg`: the masks on the image."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def add(self, image: MaskedImage) -> int:
        """One file."""
        save_image(self._out / "overlays" / f"{image.record.name}.jpg", image.overlay, "JPEG", quality=90)
        return 1


class SheetWriter(Writer):
    """`sheet.jpg`, `sheet-2.jpg` ...: overlays in rows with their names, thirty a sheet."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._sheets = 0
        self._images: list[Image.Image] = []
        self._titles: list[str] = []

    def add(self, image: MaskedImage) -> int:
        """A file when a sheet is full."""
        self._images.append(fitted(image.overlay, _SHEET_SIDE))
        self._titles.append(image.record.name)
        return self._write() if len(self._images) == _ON_A_SHEET else 0

    def finish(self) -> int:
        """The last sheet; sheets that an earlier export left beyond it are removed."""
        files = self._write() if self._images else 0
        number = self._sheets + 1
        while (stale := self._path(number)).is_file():
            stale.unlink()
            number += 1
        return files

    def close(self) -> None:
        """Let go of the images."""
        self._images, self._titles = [], []

    def _write(self) -> int:
        self._sheets += 1
        sheet = contact_sheet(self._images, self._titles, columns=_COLUMNS, side=_SHEET_SIDE)
        save_image(self._path(self._sheets), sheet, "JPEG", quality=88)
        self.close()
        return 1

    def _path(self, number: int) -> Path:
        return self._out / ("sheet.jpg" if number == 1 else f"sheet-{number}.jpg")
