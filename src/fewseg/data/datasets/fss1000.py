"""FSS-1000 (Li et al., 2020): 1000 classes of ten images, 520 to train, 240 to validate, 240 to test."""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidMask
from fewseg.data.datasets.benchmark import Benchmark, Pair, Part, check_fold, computed_pairs, grouped
from fewseg.images import decode as decoding

PER_CLASS: Final = 10

_PLACES: Final = ("fewshot_data/fewshot_data", "fewshot_data", "FSS-1000/fewshot_data", "FSS-1000", ".")


class Fss1000(Benchmark):
    """See `Benchmark`; names are `CLASS/1.jpg`, in the string order of their file names (1, 10, 2, ...).

    One fold. Which classes are trained on, validated and tested comes from published lists of class names.
    """

    word: ClassVar[str] = "fss1000"
    prepared_as: ClassVar[str] = "fss1000"
    folds: ClassVar[int] = 1

    def novel(self, fold: int = 0) -> tuple[int, ...]:
        """The test classes."""
        check_fold(self.word, fold, self.folds)
        return self._classes_of("test")

    def base(self, fold: int = 0) -> tuple[int, ...]:
        """The training classes; validation classes are neither base nor novel."""
        check_fold(self.word, fold, self.folds)
        return self._classes_of("train")

    def validation(self) -> tuple[int, ...]:
        """The classes on which the papers choose their checkpoint."""
        return self._classes_of("validation")

    def image_path(self, name: str) -> Path:
        """See `Benchmark`."""
        return self._folder / name

    def mask_path(self, name: str) -> Path:
        """See `Benchmark`."""
        return (self._folder / name).with_suffix(".png")

    def mask(self, name: str, class_id: int) -> NDArray[np.uint8]:
        """(H, W) of 0 and 1; all 0 for another class than the image's."""
        mask = read_binary(self.mask_path(name))
        return mask if name.startswith(f"{self.classes[class_id]}/") else np.zeros_like(mask)

    def _computed(self, part: Part, classes: Collection[int]) -> tuple[Pair, ...]:
        """A class has the same images whatever it is used for."""
        parts = self.index.parts.values()
        every = {name: areas for areas_of in parts for name, areas in areas_of.items()}
        return computed_pairs(every, classes, 0)

    def _classes_of(self, part: Part) -> tuple[int, ...]:
        return tuple(sorted({c for held in self.index.parts.get(part, {}).values() for c in held}))

    @cached_property
    def _names(self) -> dict[int, tuple[str, ...]]:
        return grouped(self._computed("test", range(len(self.classes))))

    @cached_property
    def _folder(self) -> Path:
        return class_folders(self.root) or self.root


def class_folders(root: Path) -> Path | None:
    """The folder with one folder a class; None where there is none."""
    for place in _PLACES:
        folder = root / place
        if folder.is_dir() and any((child / "1.jpg").is_file() for child in folder.iterdir() if child.is_dir()):
            return folder
    return None


def read_binary(path: Path) -> NDArray[np.uint8]:
    """(H, W) of 0 and 1: 1 from grey value 128 on (FSS-1000's masks are smoothed colour PNGs in places)."""
    with decoding.open_file(path, "mask", InvalidMask) as image:
        grey = decoding.decode(image, os.fspath(path), InvalidMask).convert("L")
    return (np.asarray(grey) >= 128).astype(np.uint8)
