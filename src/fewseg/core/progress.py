"""How long work tells of its progress."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int, str], None]
"""Called with how much is done, of how much in all, and a word on what was done last (which may be empty)."""


def silent(done: int, total: int, last: str) -> None:
    """A `ProgressCallback` that does nothing."""
