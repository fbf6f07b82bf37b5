"""The command line: finds the command, reads its options, turns errors into one line and an exit code.

A command is a module of `fewseg.cli` with a frozen dataclass `Options`, whose docstring and field docstrings are
its help, and a function `run(options) -> int` that returns the exit code. Modules are imported when they are called. A
function `complete(arguments)`, where a module has one, adds arguments to the given ones first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import itertools
import logging
import operator
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Final, get_type_hints

import tyro
from rich.console import Console
from rich.table import Table

from fewseg.cli.renamed_options import translate
from fewseg.core.errors import FewsegError, InvalidOption, unknown

COMMANDS: Final[dict[str, str]] = {
    "demo": "See it work: photographs that are already installed, on a page.",
    "segment": "Teach with a folder of labelled images, segment others.",
    "frame": "Save a frame of a video, to paint masks on it.",
    "prepare": "Check and index a benchmark: PASCAL-5i, COCO-20i, FSS-1000.",
    "train": "Train a method on folders of labelled images.",
    "evaluate": "Score a model on the novel classes of datasets.",
    "ablate": "Run an experiment of the DCAMA paper beside its numbers.",
    "serve": "Label a folder on a page in the browser; an HTTP API.",
    "export": "Write a model as ONNX or torch.export files, checked.",
    "bench": "Measure speed and memory on this machine.",
    "explain": "Draw what a model attends to, votes for and separates.",
}
"""Every command, in the order of the help, with its one-line description."""

BAD_INPUT: Final = 2
INTERRUPTED: Final = 130


def run_command_line(arguments: Sequence[str] | None = None) -> int:
    """Run `fewseg` with these arguments (the process's own if not given); returns the exit code.

    0: all done; 2: something a person can mend, said in one line on stderr; 130: interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of broken files, which we name ourselves
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every attempt
    try:
        return _dispatch(arguments)
    except FewsegError as error:
        print(f"fewseg: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("fewseg: interrupted; what is finished is kept: run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        if not _ran_out_of_memory(error):
            raise
        print(
            "fewseg: error: there is not enough memory for this: give a smaller --image-size, --batch or --batch-size; "
            "what is finished is kept",
            file=sys.stderr,
        )
        return BAD_INPUT
    except BrokenPipeError:  # the reader of our output (`| head`) has left: nothing more to say to it
        sys.stderr.close()
        return 0


def _ran_out_of_memory(error: Exception) -> bool:
    """Whether numpy's or torch's memory is used up: on CPUs torch says so in a plain `RuntimeError`."""
    words = str(error)
    on_gpu = type(error).__name__ == "OutOfMemoryError"
    return isinstance(error, MemoryError) or on_gpu or "can't allocate memory" in words or "not enough memory" in words


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_help()
        return 0 if arguments else BAD_INPUT
    name, *rest = arguments
    if name in ("-V", "--version", "version"):
        print(f"fewseg {importlib.import_module('fewseg').__version__}")
        return 0
    if name not in COMMANDS:
        raise unknown("option" if name.startswith("-") else "command", name, [*COMMANDS, "--help", "--version"])
    command: Any = importlib.import_module(f"fewseg.cli.{name}")
    complete = getattr(command, "complete", list)
    options = parse(command.Options, complete(translate(name, rest)), f"fewseg {name}")
    return 0 if options is None else int(command.run(options))


def _print_help() -> None:
    console = Console(highlight=False)
    console.print("usage: fewseg COMMAND [OPTIONS]\n", markup=False)
    console.print("Teach a class with a few labelled images, get its mask in any other image.\n")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2))
    for name, about in COMMANDS.items():
        table.add_row(f"  {name}", about)
    console.print(table)
    console.print("\nfewseg COMMAND --help explains a command; fewseg --version prints the version.")


def parse(kind: type[Any], arguments: Sequence[str], program: str) -> Any | None:
    """An instance of the dataclass `kind`, or None where help was asked for and printed.

    Raises `InvalidOption`, in one line, for what does not fit; unknown options come with the nearest known ones.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=program, args=list(arguments))
    except SystemExit as end:
        if end.code in (0, None):
            return None
    raise _complaint(said.getvalue(), kind, program)


def _complaint(box: str, kind: type[Any], program: str) -> InvalidOption:
    """tyro's framed explanation as one line."""
    # Title, rule, text, rule, hints: in box-drawing characters, or in dashes and blanks where there are no others.
    inside = (line.strip().strip("│").strip() for line in box.splitlines()[1:])
    ruled = [line if line.strip("-─╭╮╰╯ ") else "" for line in inside]
    text = list(itertools.takewhile(bool, itertools.dropwhile(operator.not_, ruled)))
    # Beside a required option that is missing, a misspelt one stands among the hints: it is the likelier cause.
    wrong = re.search(r"Unrecognized options: (\S+?),?( |$)", " ".join(ruled))
    if wrong and wrong[1].startswith("-"):
        return unknown("option", wrong[1].split("=")[0], [*_options(kind), "--help"])
    if wrong:
        return InvalidOption(f"unexpected {wrong[1]!r}; see {program} --help")
    if any(line.startswith("Missing from") for line in text):
        missing = ", ".join(line.split()[0] for line in text if line.startswith("--"))
        return InvalidOption(f"missing {missing}; see {program} --help")
    return InvalidOption(f"{' '.join(text) or 'the options do not fit'}; see {program} --help")


def _options(kind: type[Any], prefix: str = "--") -> Iterator[str]:
    """Names of the options of a dataclass and of those within it."""
    for name, hint in get_type_hints(kind).items():
        option = prefix + name.replace("_", "-")
        if dataclasses.is_dataclass(hint):
            yield from _options(hint, option + ".")  # type: ignore[arg-type]
        else:
            yield option
            if hint is bool:
                yield f"{prefix}no-{name.replace('_', '-')}"
