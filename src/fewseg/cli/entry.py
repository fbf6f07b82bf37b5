"""The command line: finds the command, reads its options, turns errors into one line and an exit code.

A command is a module of `fewseg.cli` with a frozen dataclass `Options`, whose docstring and field docstrings are
its help, and a function `run(options) -> int` that returns the exit code. Modules are imported when they are called,
and import what computes in `run`, so that help is quick. `SOURCES`, where a module has them, give values to options
that the command line leaves open (see `fewseg.cli.parser.parse`).
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Final

from fewseg.cli.renamed_options import translate
from fewseg.core.errors import FewsegError, one_line, unknown
from fewseg.core.version import __version__

COMMANDS: Final[dict[str, str]] = {
    "demo": "See it work: photographs that are already installed, on a page.",
    "segment": "Teach with a folder of labelled images, segment others.",
    "teach": "Keep what a folder of labelled images teaches in one file.",
    "frame": "Save a frame of a video, to paint masks on it.",
    "models": "List the models that can be named, and what is downloaded already.",
    "prepare": "Check and index a benchmark: PASCAL-5i, COCO-20i, FSS-1000.",
    "train": "Train a method on folders of labelled images.",
    "evaluate": "Score a model on the novel classes of datasets.",
    "ablate": "Run an experiment of the DCAMA paper beside its numbers.",
    "serve": "Label a folder on a page in the browser; an HTTP API.",
    "export": "Write a model as ONNX or torch.export files, checked.",
    "bench": "Measure speed and memory on this machine (from a checkout).",
    "explain": "Draw what a model attends to, aggregates and separates.",
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
        code = _dispatch(arguments)
        sys.stdout.flush()  # a reader that has left is noticed here, not when the interpreter ends
        return code
    except FewsegError as error:
        print(f"fewseg: error: {one_line(error)}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("fewseg: interrupted; what is finished is kept: run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    except (MemoryError, RuntimeError) as error:
        if not _ran_out_of_memory(error):
            raise
        print(
            "fewseg: error: there is not enough memory for this: give a smaller --image-size or --batch-size; "
            "what is finished is kept",
            file=sys.stderr,
        )
        return BAD_INPUT
    except BrokenPipeError:  # the reader of our output (`| head`) has left: nothing more to say to it
        _discard_output()
        return 0
    except OSError as error:  # mostly a folder that may not be entered, wherever that is noticed
        if error.filename is None:
            raise
        remedy = "change its permissions" if isinstance(error, PermissionError) else "check the path"
        print(f"fewseg: error: {error.filename}: {error.strerror}; {remedy}, or give another", file=sys.stderr)
        return BAD_INPUT


def _discard_output() -> None:
    """Send what is left in the buffers of stdout and stderr nowhere: the interpreter flushes them when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


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
        print(f"fewseg {__version__}")
        return 0
    if name not in COMMANDS:
        raise unknown("option" if name.startswith("-") else "command", name, [*COMMANDS, "--help", "--version"])
    command: Any = importlib.import_module(f"fewseg.cli.{name}")
    from fewseg.cli.parser import parse

    sources = getattr(command, "SOURCES", ())
    options = parse(command.Options, translate(name, rest), f"fewseg {name}", sources)
    return 0 if options is None else int(command.run(options))


def _print_help() -> None:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: fewseg COMMAND [OPTIONS]",
        "",
        "Teach a class with a few labelled images, get its mask in any other image.",
        "",
        *(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items()),
        "",
        "fewseg COMMAND --help explains a command; fewseg --version prints the version.",
    ]
    print("\n".join(lines))
