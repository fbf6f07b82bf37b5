"""Numbers of images and pairs of a prepared benchmark, beside those of the papers' lists."""

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
class CountRow:
    """One line of a table of counts."""

    title: str
    counted: tuple[int, ...]
    published: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Counts:
    """A table of counts."""

    columns: tuple[str, ...]
    rows: tuple[CountRow, ...]

    def table(self) -> str:
        """As Markdown; a published number stands in brackets behind the counted one."""
        lines = ["| | " + " | ".join(self.columns) + " |", "|---|" + "---:|" * len(self.columns)]
        for row in self.rows:
            numbers = row.published or (None,) * len(row.counted)
            cells = [f"{n} ({p})" if p is not None else str(n) for n, p in zip(row.counted, numbers, strict=True)]
            lines.append(f"| {row.title} | " + " | ".join(cells) + " |")
        return "\n".join(lines)

    @property
    def agree(self) -> bool:
        """Whether every published number was counted too."""
        return all(row.published in (None, row.counted) for row in self.rows)


def count_benchmark(benchmark: Benchmark) -> Counts:
    """The counts of a benchmark; for COCO-20i of both kinds of folds."""
    if isinstance(benchmark, Fss1000):
        return _fss(benchmark)
    columns = tuple(f"fold {fold}" for fold in range(benchmark.folds))
    return Counts(columns, _pascal(benchmark) if isinstance(benchmark, Pascal5i) else _coco(benchmark))


def _pascal(benchmark: Pascal5i) -> tuple[CountRow, ...]:
    def own(fold: int) -> int:
        novel = benchmark.novel(fold)
        return sum(c in novel for _, c in benchmark.train_pairs((fold + 1) % benchmark.folds))

    return (
        CountRow("training pairs of the fold's classes", _each(own), PASCAL_TRAIN_PAIRS),
        CountRow("the same on any area", _each(lambda fold: len(_any_area(benchmark, "train", fold)))),
        CountRow("test pairs", _each(lambda fold: len(benchmark.test_pairs(fold))), PASCAL_TEST_PAIRS),
        CountRow("test images", _each(lambda fold: _images(benchmark.test_pairs(fold))), PASCAL_TEST_IMAGES),
        CountRow("test pairs on any area", _each(lambda fold: len(_any_area(benchmark, "test", fold)))),
    )


def _coco(benchmark: Benchmark) -> tuple[CountRow, ...]:
    panet = Coco20iPanet(benchmark.root)
    interleaved = Coco20i(benchmark.root)
    return (
        CountRow("training images", _each(lambda fold: _images(interleaved.train_pairs(fold)))),
        CountRow("test images", _each(lambda fold: _images(interleaved.test_pairs(fold))), COCO_TEST_IMAGES),
        CountRow("test pairs", _each(lambda fold: len(interleaved.test_pairs(fold)))),
        CountRow("contiguous folds: training images", _each(lambda fold: _images(panet.train_pairs(fold)))),
        CountRow("contiguous folds: test images", _each(lambda fold: _images(panet.test_pairs(fold)))),
    )


def _fss(benchmark: Fss1000) -> Counts:
    parts = (benchmark.base(), benchmark.validation(), benchmark.novel())
    images = tuple(sum(len(benchmark.names(c)) for c in part) for part in parts)
    published = tuple(10 * n for n in FSS_CLASSES)
    return Counts(
        ("train", "validation", "test"),
        (CountRow("classes", tuple(map(len, parts)), FSS_CLASSES), CountRow("images", images, published)),
    )


def _each(number: Callable[[int], int]) -> tuple[int, ...]:
    return tuple(number(fold) for fold in range(4))


def _images(pairs: tuple[Pair, ...]) -> int:
    return len({name for name, _ in pairs})


def _any_area(benchmark: Benchmark, part: Part, fold: int) -> tuple[Pair, ...]:
    return computed_pairs(benchmark.index.parts[part], benchmark.novel(fold), 1)
