"""Old ways to name a model: `--official`, `--method` and `--backbone`, which are parts of `--model` now."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from fewseg.core.errors import InvalidOption

MODEL_COMMANDS: Final = ("segment", "teach", "serve", "export", "explain", "evaluate", "demo", "bench", "ablate")
"""Commands that take `--model`, which was `--checkpoint`."""
_PARTS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("segment", "teach", "serve", "export", "explain"), ("--official", "--method")),
    "evaluate": ("--official", "--method", "--backbone"),
}
"""Options of earlier versions that were parts of a model's name, by command."""
_NAMES: Final = ("--checkpoint", "--model")


def model_words(command: str, words: Sequence[str]) -> list[str]:
    """The words with `--official`, `--method` and `--backbone` put into `--model`, which is told on stderr.

    Raises `InvalidOption` where they do not make a model.
    """
    parts = _PARTS.get(command, ())
    if not any(word.partition("=")[0] in parts for word in words):
        return list(words)
    given: dict[str, str] = {}
    rest: list[str] = []
    waiting = iter(words)
    for word in waiting:
        option, equals, value = word.partition("=")
        if word == "--":
            rest += [word, *waiting]
        elif option in parts or option in _NAMES:
            given[option] = value if equals else next(waiting, "")
        else:
            rest.append(word)
    model = _model(given)
    old = ", ".join(option for option in given if option in parts)
    print(f"fewseg: give --model {model}; {old} will go with the next release", file=sys.stderr)
    return [f"--model={model}", *rest]


def _model(given: dict[str, str]) -> str:
    """The one name for what the old options say."""
    file = given.get("--model", given.get("--checkpoint", "default"))
    method, backbone = given.get("--method"), given.get("--backbone", "resnet50")
    if "--official" in given:
        official = given["--official"]
        if file == "default":
            says = f"--official {official} says whose release a file is"
            raise InvalidOption(f"{says}: give the file, --model dcama:{official}:FILE")
        return f"{method or 'dcama'}:{official}:{file}"
    if method is None:
        raise InvalidOption("--backbone is of a method without training: give --model METHOD:BACKBONE")
    if file != "default":
        raise InvalidOption(
            f"--model {file} and --method {method}: a checkpoint brings its method; leave out one of the two, or give "
            f"--model {method}:BACKBONE:FILE for the authors' release"
        )
    return f"{method}:{backbone}"
