"""Refusing absurd numbers and endless files at once, instead of working on them until memory or patience is used up."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from fewseg.core.errors import InvalidOption

MOST: Final = 10_000_000
"""Of anything that is counted: episodes, epochs, steps."""
MOST_AT_ONCE: Final = 4096
"""Of anything that is in memory at a time: images of a batch, shots, heads, threads."""
TEXT_BYTES: Final = 1 << 30
"""Length of a text file that is read whole."""


def check_number(name: str, value: float, most: float = MOST) -> None:
    """Raise `InvalidOption` for a number above what can be meant, and for none."""
    if not abs(value) <= most:
        raise InvalidOption(f"{name} is {value}: give at most {most}")


def bounded(path: str | os.PathLike[str]) -> Path:
    """The path of a file that can be read whole; raises `OSError` for a device, a pipe, and what is far too long."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(0, "it is no file of text", os.fspath(path))
    if status.st_size > TEXT_BYTES:
        raise OSError(0, f"it has {status.st_size:,} bytes", os.fspath(path))
    return Path(path)
