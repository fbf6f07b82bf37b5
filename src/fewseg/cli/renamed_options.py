"""Old spellings of options, which keep working for one release, and other spellings of the same word."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Final

from fewseg.cli.renamed_model import MODEL_COMMANDS, model_words

RENAMED_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "segment": {
        "--query": "--input",
        "--every": "--frame-stride",
        "--flips": "--tta-flip",
        "--scales": "--tta-scales",
        "--threshold": "--presence-threshold",
        "--export.copy-pictures": "--export.copy-images",
    },
    "train": {
        "--options": "--model-kwargs",
        "--absent": "--negative-episodes",
        "--joined": "--splice",
        "--batch": "--batch-size",
        "--accumulate": "--grad-accum-steps",
        "--episodes": "--episodes-per-epoch",
        "--cache-views": "--cached-views",
        "--clip": "--clip-grad",
        "--average": "--ema-decay",
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

for _command in MODEL_COMMANDS:
    RENAMED_OPTIONS.setdefault(_command, {})["--checkpoint"] = "--model"

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
    words = model_words(command, list(words))
    end = words.index("--") if "--" in words else len(words)
    renamed = RENAMED_OPTIONS.get(command, {})
    unless_number = renamed | RENAMED_UNLESS_NUMBER.get(command, {})
    spellings = SPELLINGS.get(command, {})
    found = []
    for word, after in zip(words[:end], [*words[1:end], ""], strict=False):
        number = (word.partition("=")[2] or after).lstrip("-").isdigit()
        found.append(_translated(word, renamed if number else unless_number, spellings))
    return found + words[end:]


def _translated(word: str, renamed: Mapping[str, str], spellings: Mapping[str, str]) -> str:
    option, equals, value = word.partition("=")
    option = option.replace("_", "-")
    if option in spellings:
        return spellings[option] + equals + value
    negative = option.startswith("--no-")
    new = renamed.get(option) or (renamed.get(f"--{option.removeprefix('--no-')}") if negative else None)
    if new is None:
        return word
    new = f"--no-{new.removeprefix('--')}" if negative and option not in renamed else new
    print(f"fewseg: {option} is called {new} now; the old name goes with the next release", file=sys.stderr)
    return new + equals + value
