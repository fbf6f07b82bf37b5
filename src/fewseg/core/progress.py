"""The callback by which long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int, str], None]
"""Called with the amount done, the total, and a word on the last item, which may be empty."""


def silent(done: int, total: int, last: str) -> None:
    """A `ProgressCallback` that does nothing."""


def part_of(progress: ProgressCallback, before: int, total: int, last: str) -> ProgressCallback:
    """The callback of one part of some work: it counts on from `before`, of `total` in all, under the name `last`."""
    return lambda done, _total, _last: progress(before + done, total, last)
