"""Which dataset, and which of its classes are novel: written as one word on the command line and in saved configs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fewseg.core.errors import InvalidDataset, InvalidOption
from fewseg.data.datasets.base import Dataset
from fewseg.data.datasets.benchmark import Benchmark, Selection
from fewseg.data.datasets.coco20i import Coco20i, Coco20iPanet
from fewseg.data.datasets.folder import FolderDataset
from fewseg.data.datasets.fss1000 import Fss1000
from fewseg.data.datasets.pascal5i import Pascal5i
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.draw import named_classes, split_classes

SYNTHETIC: Final = "synthetic"
"""The root that stands for the procedurally generated dataset."""

BENCHMARKS: Final[dict[str, type[Benchmark]]] = {kind.word: kind for kind in (Pascal5i, Coco20i, Coco20iPanet, Fss1000)}
"""What stands in front of the colon of `pascal5i:ROOT`."""


@dataclass(frozen=True)
class OpenSource:
    """A dataset with its classes divided."""

    dataset: Dataset
    base: tuple[int, ...]
    """Class ids to train on."""
    novel: tuple[int, ...]
    """Class ids to test on; training must not use their masks."""


def open_source(
    text: str,
    *,
    fold: int | None = None,
    folds: int = 4,
    min_area: float = 0.0,
    selection: Selection = "hsnet",
) -> OpenSource:
    """Open a dataset written as `ROOT` or `ROOT@SPLIT`.

    Args:
        text: ROOT is a folder, `synthetic`, or a benchmark: `pascal5i:FOLDER`, `coco20i:FOLDER`, `coco20i-panet:FOLDER`
            or `fss1000:FOLDER`. SPLIT says which classes are novel: `1/4` (fold 1 of 4, interleaved), `cat,dog`
            (names), `all` or `none`; of a benchmark `1` is its fold 1 (FSS-1000: `val` its validation classes).
        fold: the fold for a ROOT without SPLIT; if not given either, all classes are base and novel at once. Benchmarks
            must have one of both, FSS-1000 excepted.
        folds: number of folds, likewise; benchmarks have their own.
        min_area: share of an image that a class must cover to be used; benchmarks have their lists instead.
        selection: whose training images, of a benchmark.

    Raises:
        InvalidOption: a split that means nothing. InvalidDataset: no such folder, not a dataset, or not prepared.
    """
    kind, colon, rest = text.partition(":")
    if colon and kind in BENCHMARKS:
        return _open_benchmark(BENCHMARKS[kind], rest, fold, selection)
    root, split = _parted(text)
    if split is None:
        split = "" if fold is None else f"{fold}/{folds}"
    if not 0 <= min_area < 1:
        raise InvalidOption(f"min_area {min_area:g}: give a share of the image from 0 to below 1, e.g. 0.02")
    dataset: Dataset = SyntheticDataset() if root == SYNTHETIC else FolderDataset(root, min_area=min_area)
    base, novel = _divide(dataset, split)
    return OpenSource(dataset, base, novel)


def _parted(text: str) -> tuple[str, str | None]:
    """Root and, where there is one, the split; an @ of an existing path is part of the root."""
    root, at, split = (text, "", "") if Path(text).exists() else text.rpartition("@")
    return (root, split) if at else (text, None)


def _open_benchmark(kind: type[Benchmark], text: str, fold: int | None, selection: Selection) -> OpenSource:
    root, split = _parted(text)
    if not Path(root).is_dir():
        raise InvalidDataset(f"no folder {root!r} for {kind.word}: give {kind.word}:FOLDER with the benchmark's folder")
    if split and split.isdigit():
        fold, split = int(split), None
    benchmark = kind(root, selection=selection)
    if split is not None:
        base, novel = _divide(benchmark, split)
        return OpenSource(benchmark.opened(held_out=novel), base, novel)
    if fold is None and kind.folds > 1:
        choice = f"--fold 0 ... {kind.folds - 1}, or {kind.word}:{root}@0"
        raise InvalidOption(f"{kind.word} is tested fold by fold: choose one with {choice}")
    opened = benchmark.opened(fold=fold or 0)
    return OpenSource(opened, opened.base(fold or 0), opened.novel(fold or 0))


def _divide(dataset: Dataset, split: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    everything = tuple(range(len(dataset.classes)))
    if split == "val" and isinstance(dataset, Fss1000):
        return dataset.base(), dataset.validation()
    if not split:
        return everything, everything
    if split in ("all", "none"):
        return ((), everything) if split == "all" else (everything, ())
    numbers = re.fullmatch(r"(\d+)/(\d+)", split)
    if numbers:
        return split_classes(dataset, int(numbers[1]), int(numbers[2]))
    novel = named_classes(dataset, [name.strip() for name in split.split(",") if name.strip()])
    return tuple(i for i in everything if i not in novel), novel
