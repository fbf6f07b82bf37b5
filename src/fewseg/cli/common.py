"""What several commands need: a progress bar, and the model that the options name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

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

from fewseg.core.errors import InvalidOption
from fewseg.core.progress import ProgressCallback
from fewseg.inference.segmenter import Segmenter
from fewseg.models.checkpoints import load_method, load_official
from fewseg.models.methods import FewShotMethod


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


class ModelOptions(Protocol):
    """The options by which a command chooses its segmenter."""

    @property
    def checkpoint(self) -> str: ...
    @property
    def official(self) -> str | None: ...
    @property
    def method(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def flips(self) -> bool: ...
    @property
    def scales(self) -> tuple[float, ...]: ...
    @property
    def threshold(self) -> float | None: ...


def make_segmenter(options: ModelOptions, *, compile: bool = False) -> Segmenter:
    """The untaught segmenter that the options describe."""
    chosen: dict[str, Any] = {
        "device": options.device,
        "precision": options.precision,
        "flips": options.flips,
        "scales": options.scales,
        "presence_threshold": options.threshold,
        "compile": compile,
    }
    _check_release(options.checkpoint, options.official)
    if options.official is None:
        return Segmenter.from_pretrained(options.checkpoint, **chosen)
    return Segmenter.from_official(options.checkpoint, options.official, options.method, **chosen)


def _check_release(checkpoint: str, official: str | None) -> None:
    if official is not None and checkpoint == "default":
        raise InvalidOption(f"--official {official} says whose release a file is: give the file with --checkpoint")


def load_model(
    checkpoint: str, official: str | None, method: str, image_size: int | None, **choices: Any
) -> FewShotMethod:
    """A checkpoint of ours or, with `official` its backbone, the authors' release of `method`; its own size if None."""
    _check_release(checkpoint, official)
    if official is None:
        return load_method(checkpoint, image_size=image_size)
    size = {} if image_size is None else {"image_size": image_size}
    return load_official(checkpoint, method, official, **size, **choices)
