"""COCO-20i (Nguyen and Todorovic, 2019): COCO 2014, 80 classes in four folds of twenty, training images from
train2014, test images from val2014."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Final

from fewseg.data.datasets.benchmark import Benchmark, check_fold

SPLITS: Final = {"train": "train2014", "test": "val2014"}
"""Part of the benchmark to COCO's folder of images."""

MASKS: Final = "masks"
"""Folder of the painted masks, in the root."""


class Coco20i(Benchmark):
    """See `Benchmark`; names are paths as in the published lists (`val2014/COCO_val2014_000000000042.jpg`)."""

    word: ClassVar[str] = "coco20i"
    prepared_as: ClassVar[str] = "coco20i"

    def novel(self, fold: int) -> tuple[int, ...]:
        """Every fourth class: fold + 4 v."""
        check_fold(self.word, fold, self.folds)
        return tuple(range(fold, 80, 4))

    def image_path(self, name: str) -> Path:
        """See `Benchmark`."""
        return self.root / name

    def mask_path(self, name: str) -> Path:
        """See `Benchmark`."""
        return mask_path(self.root, name)


class Coco20iPanet(Coco20i):
    """PANet's folds: twenty consecutive classes. The same images and masks; published lists are for the other."""

    word: ClassVar[str] = "coco20i-panet"

    def novel(self, fold: int) -> tuple[int, ...]:
        """Classes 20 fold ... 20 fold + 19."""
        check_fold(self.word, fold, self.folds)
        return tuple(range(20 * fold, 20 * fold + 20))

    def _listed(self, part: str, fold: int) -> None:
        return None


def mask_path(root: Path, name: str) -> Path:
    """The mask of the image `name`."""
    return (root / MASKS / name).with_suffix(".png")
