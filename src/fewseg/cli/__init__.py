"""The command line: a module a command, each with `Options`, which are its help, and `run(options)`, which does it."""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `fewseg` with these arguments (the process's own if not given); returns the exit code."""
    from fewseg.cli.entry import run_command_line

    return run_command_line(arguments)
