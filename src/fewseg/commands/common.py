"""What several commands need: a progress bar, and the model that the options name."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ProgressCallback = Callable[[int, int, str], None]
"""Called with how much is done, of how much, and a word on what was done last."""


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[ProgressCallback]:
    """A progress bar with the time left on stderr, as the callback that moves it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=None, last="")

        def advance(done: int, total: int, last: str = "") -> None:
            bar.update(task, completed=done, total=total, last=last)

        yield advance
