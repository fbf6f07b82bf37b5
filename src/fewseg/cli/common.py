"""What several commands need: logging, a progress bar, and the model that the options name."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from fewseg.cli.options import ModelOptions
from fewseg.core.progress import ProgressCallback

if TYPE_CHECKING:
    from fewseg.inference.segmenter import Segmenter


class _Rate(ProgressColumn):
    """How many a second, lately; what was done before the start does not count."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.3g} {self.unit}" if speed else "")


@contextlib.contextmanager
def progress_bar(title: str, rate: str = "") -> Iterator[ProgressCallback]:
    """A progress bar with the time left on stderr, as the callback that moves it; with the rate in a unit so named."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *([_Rate(rate)] if rate else []),
        TextColumn("{task.fields[last]}", markup=False),
    )
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(title, total=None, last="")

    def advance(done: int, total: int, last: str = "") -> None:
        bar.start()  # only now: no empty bar above an error; again is no harm
        bar.update(task, completed=done, total=total, last=last)

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def log_to_terminal(verbose: bool, layout: str = "%(message)s", *, silent: bool = False) -> None:
    """Show what the library logs: everything, or warnings and errors only, or errors only."""
    level = logging.ERROR if silent else logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format=layout)


def make_segmenter(options: ModelOptions, *, compile: bool = False) -> Segmenter:
    """The untaught segmenter that the options describe."""
    from fewseg.images.depth import set_range
    from fewseg.inference.segmenter import Segmenter

    chosen: dict[str, Any] = {
        "device": options.device,
        "precision": options.precision,
        "tta_flip": options.tta_flip,
        "tta_scales": options.tta_scales,
        "presence_threshold": options.presence_threshold,
        "compile": compile,
    }
    set_range(options.range)
    return Segmenter.from_pretrained(options.model, **chosen)
