"""PASCAL-5i (Shaban et al., 2017): VOC 2012 with SBD's masks, 20 classes in four folds of five consecutive ones."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import ClassVar, Final

from fewseg.data.datasets.benchmark import SCCAN_PIXELS, Benchmark, check_fold

VOC_CLASSES: Final = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle"),
    *("bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person"),
    *("pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""In VOC's order: mask value 1 first."""

AUGMENTED: Final = "SegmentationClassAug"
"""Folder of the merged masks, beside VOC's own SegmentationClass."""

_VOC: Final = ("VOCdevkit/VOC2012", "VOC2012", ".")
_SBD: Final = ("benchmark_RELEASE/dataset", "SBD/benchmark_RELEASE/dataset", "VOCdevkit/benchmark_RELEASE/dataset")


class Pascal5i(Benchmark):
    """See `Benchmark`; names are VOC's image ids (`2007_000033`).

    Where no published lists were given to `fewseg prepare`, lists hold every (image, class of the fold) with at least
    2048 pixels, image by image. The papers do not state that threshold; see docs/guides/benchmarks.md.
    """

    word: ClassVar[str] = "pascal5i"
    prepared_as: ClassVar[str] = "pascal5i"
    min_pixels: ClassVar[int] = SCCAN_PIXELS
    class_by_class: ClassVar[bool] = False

    def novel(self, fold: int) -> tuple[int, ...]:
        """Classes 5 fold ... 5 fold + 4."""
        check_fold(self.word, fold, self.folds)
        return tuple(range(5 * fold, 5 * fold + 5))

    def image_path(self, name: str) -> Path:
        """See `Benchmark`."""
        return self._voc / "JPEGImages" / f"{name}.jpg"

    def mask_path(self, name: str) -> Path:
        """See `Benchmark`."""
        return self._voc / AUGMENTED / f"{name}.png"

    @cached_property
    def _voc(self) -> Path:
        return voc_folder(self.root) or self.root / _VOC[0]


def voc_colour(value: int) -> tuple[int, int, int]:
    """VOC's colour of a mask value: its bits 0, 3, 6 are the highest of red, bits 1, 4, 7 of green, 2, 5 of blue."""
    channels = [sum((value >> (3 * place + c) & 1) << (7 - place) for place in range(8)) for c in range(3)]
    return channels[0], channels[1], channels[2]


def voc_folder(root: Path) -> Path | None:
    """The folder with JPEGImages and ImageSets; None where there is none."""
    return next((root / place for place in _VOC if (root / place / "JPEGImages").is_dir()), None)


def sbd_folder(root: Path) -> Path | None:
    """SBD's folder with cls, img, train.txt and val.txt; None where there is none."""
    return next((root / place for place in _SBD if (root / place / "cls").is_dir()), None)
