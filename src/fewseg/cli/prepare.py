"""`fewseg prepare`: check a benchmark's files, build its masks and index, count."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fewseg.cli.options import LogOptions
from fewseg.core.bounds import MOST_AT_ONCE, check_number
from fewseg.core.errors import InvalidDataset, InvalidOption

if TYPE_CHECKING:
    from fewseg.data.datasets.benchmark import Benchmark


@dataclass(frozen=True)
class _Positional:
    """What is given without an option's name."""

    benchmark: Literal["pascal5i", "coco20i", "fss1000"]
    """pascal5i (VOC 2012 and SBD), coco20i (COCO 2014; serves both kinds of folds) or fss1000."""


@dataclass(frozen=True, kw_only=True)
class Options(LogOptions, _Positional):
    """Check a benchmark's files, build its masks and index, and print how many images every fold has.

    Archives that lie in the root are unpacked first. What is missing is said, with where it is usually obtained. Run
    the same command again after it was stopped, or after a file was replaced: what is finished is kept.
    """

    root: Path
    """Folder with the archives, or with the folders that are in them."""
    lists: Path | None = None
    """Folder of the lists that a paper's repository publishes; looked for in the root if not given, and computed
    where there are none (not for fss1000, whose split they are)."""
    workers: int = 0
    """Worker processes; 0 for one a core."""
    whole: bool = False
    """Decode every image to the last pixel, instead of looking at how it begins and ends."""


def run(options: Options) -> int:
    """Prepare, print the counts."""
    from fewseg.cli.common import log_to_terminal, progress_bar
    from fewseg.core.locks import FolderLock
    from fewseg.data.episodes.sources import BENCHMARKS

    log_to_terminal(options.verbose)
    for folder in (options.root, options.lists):
        if folder is not None and not folder.is_dir():
            raise InvalidDataset(f"no folder {folder}: give one that exists")
    if options.workers < 0:
        raise InvalidOption(f"workers is {options.workers}: give 0 or more")
    check_number("workers", options.workers, MOST_AT_ONCE)
    # Each needs other packages (COCO's masks, .mat files): they are imported when they are used.
    builder: Any = importlib.import_module(f"fewseg.data.datasets.build_{options.benchmark}")
    with FolderLock(options.root / "fewseg"), progress_bar(f"preparing {options.benchmark}") as advance:
        builder.build(options.root, options.lists, options.workers, options.whole, advance)
    print(_report(BENCHMARKS[options.benchmark](options.root)))
    return 0


def _report(benchmark: Benchmark) -> str:
    from fewseg.data.datasets.counts import count_benchmark

    counts = count_benchmark(benchmark)
    lists = ", ".join(benchmark.index.published)
    said = [counts.table(), "", "In brackets: the papers' lists."]
    if benchmark.word != "fss1000":
        said.append(f"Published lists in use: {lists or 'none, ours are computed'}.")
    if not counts.agree:
        said.append("Not all counts are the papers': compare results only among themselves, or give --lists.")
    fold = "" if benchmark.folds == 1 else " --fold 0"
    said += ["", f"Next: fewseg train --data {benchmark.word}:{benchmark.root}{fold} ..."]
    return "\n".join(said)
