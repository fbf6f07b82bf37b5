"""Old spellings of options, which keep working for one release, and other spellings of the same word."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

RENAMED_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "segment": {
        "--query": "--input",
        "--every": "--frame-stride",
        "--flips": "--tta-flip",
        "--scales": "--tta-scales",
        "--threshold": "--presence-threshold",
        "--export.copy-pictures": "--export.copy-images",
    },
    "serve": {
        "--flips": "--tta-flip",
        "--scales": "--tta-scales",
        "--threshold": "--presence-threshold",
        "--picture-hosts": "--image-hosts",
    },
    "evaluate": {
        "--count": "--episodes",
        "--per-class": "--episodes-per-class",
        "--pictures": "--save-examples",
        "--batch": "--batch-size",
        "--options": "--model-kwargs",
    },
    "explain": {"--scales": "--attention-scales", "--episodes": "--episode-list"},
    "bench": {"--per-class": "--episodes-per-class"},
    "ablate": {
        "--options": "--model-kwargs",
        "--episodes": "--episodes-per-epoch",
        "--batch": "--batch-size",
        "--cache-views": "--cached-views",
        "--count": "--evaluation-episodes",
        "--measure-batch": "--evaluation-batch-size",
    },
}
"""Command to its options' old and new spellings: `{"segment": {"--query": "--input"}}`. Whoever uses an old one is told
the new one in a line on stderr. The `--no-` form of a switch needs no row of its own."""

RENAMED_UNLESS_NUMBER: Final[dict[str, dict[str, str]]] = {"evaluate": {"--episodes": "--episode-lists"}}
"""The same for an old spelling that is another option's now, which takes a number where the old one took files."""

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
    behind = [*words[1:end], ""]
    return [_translated(command, word, after) for word, after in zip(words[:end], behind, strict=False)] + words[end:]


def _translated(command: str, word: str, after: str) -> str:
    option, equals, value = word.partition("=")
    option = option.replace("_", "-")
    if spelling := SPELLINGS.get(command, {}).get(option):
        return spelling + equals + value
    renamed = RENAMED_OPTIONS.get(command, {})
    if not (value or after).lstrip("-").isdigit():
        renamed = renamed | RENAMED_UNLESS_NUMBER.get(command, {})
    negative = option.startswith("--no-")
    new = renamed.get(option) or (renamed.get(f"--{option.removeprefix('--no-')}") if negative else None)
    if new is None:
        return word
    new = f"--no-{new.removeprefix('--')}" if negative and option not in renamed else new
    print(f"fewseg: {option} is called {new} now; the old name goes with the next release", file=sys.stderr)
    return new + equals + value
