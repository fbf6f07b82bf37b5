"""Which dataset, and which of its classes are novel: written as one word on the command line and in saved configs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fewseg.datasets.base import Dataset
from fewseg.datasets.folder import FolderDataset
from fewseg.datasets.synthetic import SyntheticDataset
from fewseg.episodes.draw import named_classes, split_classes
from fewseg.errors import InvalidOption

SYNTHETIC: Final = "synthetic"
"""The root that stands for the procedurally generated dataset."""


@dataclass(frozen=True)
class OpenSource:
    """A dataset with its classes divided."""

    dataset: Dataset
    base: tuple[int, ...]
    """Class ids to train on."""
    novel: tuple[int, ...]
    """Class ids to test on; training must not use their masks."""


def open_source(text: str, *, fold: int | None = None, folds: int = 4, min_area: float = 0.0) -> OpenSource:
    """Open a dataset written as `ROOT` or `ROOT@SPLIT`.

    Args:
        text: ROOT is a folder, or `synthetic`. SPLIT says which classes are novel: `1/4` (fold 1 of 4, interleaved),
            `cat,dog` (names), `all` or `none`.
        fold: the fold for a ROOT without SPLIT; if not given either, all classes are base and novel at once.
        folds: number of folds, likewise.
        min_area: share of a picture that a class must cover to be used.

    Raises:
        InvalidOption: a split that means nothing. InvalidDataset: no such folder, or not a dataset.
    """
    root, at, split = (text, "", "") if Path(text).exists() else text.rpartition("@")
    if not at:
        root, split = text, "" if fold is None else f"{fold}/{folds}"
    if not 0 <= min_area < 1:
        raise InvalidOption(f"min_area {min_area:g}: give a share of the picture from 0 to below 1, e.g. 0.02")
    dataset: Dataset = SyntheticDataset() if root == SYNTHETIC else FolderDataset(root, min_area=min_area)
    base, novel = _divide(dataset, split)
    return OpenSource(dataset, base, novel)


def _divide(dataset: Dataset, split: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    everything = tuple(range(len(dataset.classes)))
    if not split:
        return everything, everything
    if split in ("all", "none"):
        return ((), everything) if split == "all" else (everything, ())
    numbers = re.fullmatch(r"(\d+)/(\d+)", split)
    if numbers:
        return split_classes(dataset, int(numbers[1]), int(numbers[2]))
    novel = named_classes(dataset, [name.strip() for name in split.split(",") if name.strip()])
    return tuple(i for i in everything if i not in novel), novel
