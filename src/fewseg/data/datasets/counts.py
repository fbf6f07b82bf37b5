"""How many images and pairs a prepared benchmark has, beside the numbers the papers' lists have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fewseg.data.datasets.benchmark import Benchmark, Pair, Part, computed_pairs
from fewseg.data.datasets.coco20i import Coco20i, Coco20iPanet
from fewseg.data.datasets.fss1000 import Fss1000
from fewseg.data.datasets.pascal5i import Pascal5i

PASCAL_TRAIN_PAIRS: Final = (2286, 3425, 5883, 2086)
"""Training lists, each of its own fold's classes."""
PASCAL_TEST_PAIRS: Final = (346, 451, 725, 346)
PASCAL_TEST_IMAGES: Final = (345, 433, 587, 326)
COCO_TEST_IMAGES: Final = (26052, 15305, 13138, 12640)
FSS_CLASSES: Final = (520, 240, 240)


@dataclass(frozen=True)
class Row:
    """One line of a table of counts."""

    title: str
    ours: tuple[int, ...]
    published: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Counts:
    """A table of counts."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    def table(self) -> str:
        """As Markdown; a published number stands in brackets behind ours."""
        lines = ["| | " + " | ".join(self.columns) + " |", "|---|" + "---:|" * len(self.columns)]
        for row in self.rows:
            told = row.published or (None,) * len(row.ours)
            cells = [f"{n} ({p})" if p is not None else str(n) for n, p in zip(row.ours, told, strict=True)]
            lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    @property
    def agree(self) -> bool:
        """Whether every published number is ours too."""
        return all(row.published in (None, row.ours) for row in self.rows)


def count(benchmark: Benchmark) -> Counts:
    """The counts of a benchmark; for COCO-20i of both kinds of folds."""
    if isinstance(benchmark, Fss1000):
        return _fss(benchmark)
    columns = tuple(f"fold {fold}" for fold in range(benchmark.folds))
    return Counts(columns, _pascal(benchmark) if isinstance(benchmark, Pascal5i) else _coco(benchmark))


def _pascal(benchmark: Pascal5i) -> tuple[Row, ...]:
    def own(fold: int) -> int:
        novel = benchmark.novel(fold)
        return sum(c in novel for _, c in benchmark.train_pairs((fold + 1) % benchmark.folds))

    return (
        Row("training pairs of the fold's classes", _each(own), PASCAL_TRAIN_PAIRS),
        Row("the same on any area", _each(lambda fold: len(_any_area(benchmark, "train", fold)))),
        Row("test pairs", _each(lambda fold: len(benchmark.test_pairs(fold))), PASCAL_TEST_PAIRS),
        Row("test images", _each(lambda fold: _images(benchmark.test_pairs(fold))), PASCAL_TEST_IMAGES),
        Row("test pairs on any area", _each(lambda fold: len(_any_area(benchmark, "test", fold)))),
    )


def _coco(benchmark: Benchmark) -> tuple[Row, ...]:
    panet = Coco20iPanet(benchmark.root)
    interleaved = Coco20i(benchmark.root)
    return (
        Row("training images", _each(lambda fold: _images(interleaved.train_pairs(fold)))),
        Row("test images", _each(lambda fold: _images(interleaved.test_pairs(fold))), COCO_TEST_IMAGES),
        Row("test pairs", _each(lambda fold: len(interleaved.test_pairs(fold)))),
        Row("contiguous folds: training images", _each(lambda fold: _images(panet.train_pairs(fold)))),
        Row("contiguous folds: test images", _each(lambda fold: _images(panet.test_pairs(fold)))),
    )


def _fss(benchmark: Fss1000) -> Counts:
    parts = (benchmark.base(), benchmark.validation(), benchmark.novel())
    images = tuple(sum(len(benchmark.names(c)) for c in part) for part in parts)
    told = tuple(10 * n for n in FSS_CLASSES)
    return Counts(
        ("train", "validation", "test"),
        (Row("classes", tuple(map(len, parts)), FSS_CLASSES), Row("images", images, told)),
    )


def _each(number: Callable[[int], int]) -> tuple[int, ...]:
    return tuple(number(fold) for fold in range(4))


def _images(pairs: tuple[Pair, ...]) -> int:
    return len({name for name, _ in pairs})


def _any_area(benchmark: Benchmark, part: Part, fold: int) -> tuple[Pair, ...]:
    return computed_pairs(benchmark.index.parts[part], benchmark.novel(fold), 1)
