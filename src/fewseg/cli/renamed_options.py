"""Old spellings of options, which keep working for one release, and other spellings of the same word."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

RENAMED_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "evaluate": {"--pictures": "--save-examples"},
}
"""Command to its options' old and new spellings: `{"segment": {"--query": "--input"}}`. Whoever uses an old one is told
the new one in a line on stderr. The `--no-` form of a switch needs no row of its own."""

SPELLINGS: Final[dict[str, dict[str, str]]] = {
    "train": {"--optimizer": "--optimiser", "--opt": "--optimiser"},
    "export": {"--license": "--licence"},
}
"""Command to spellings that are as good as the option's own: nothing is said about them."""


def translate(command: str, words: Sequence[str]) -> list[str]:
    """The words of a command line with every renamed option under its present name: `--old`, `--old=VALUE`, `--no-old`.

    What stands behind a lone `--` is left alone.
    """
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    return [_translated(command, word) for word in words[:end]] + words[end:]


def _translated(command: str, word: str) -> str:
    option, equals, value = word.partition("=")
    option = option.replace("_", "-")
    for table, is_old in ((SPELLINGS, False), (RENAMED_OPTIONS, True)):
        renamed = table.get(command, {})
        new = renamed.get(option)
        if new is None and option.startswith("--no-"):
            positive = renamed.get(f"--{option.removeprefix('--no-')}")
            new = None if positive is None else f"--no-{positive.removeprefix('--')}"
        if new is not None:
            if is_old:
                print(f"fewseg: {option} is called {new} now; the old name goes with the next release", file=sys.stderr)
            return new + equals + value
    return word
