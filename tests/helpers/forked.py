"""`fewseg` commands as processes that are forked from one which has imported everything: they begin at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from fewseg import cli

_CONTEXT: Any = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")


def start(words: str, said: Path) -> BaseProcess:
    """The command in a process group of its own; what it says goes to a file, both streams as one."""
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    before = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)  # for the process that others are forked from, which is started by the first
    try:
        _CONTEXT.set_forkserver_preload(["helpers.preloaded"])
        process: BaseProcess = _CONTEXT.Process(target=_run, args=(words.split(), os.fspath(said)))
        said.unlink(missing_ok=True)
        process.start()
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
    return process


def kill(process: BaseProcess) -> None:
    """kill -9 of the command and its workers."""
    assert process.pid is not None
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()  # where it has no group of its own yet
    process.join()


def _run(words: list[str], said: str) -> None:
    os.setpgrp()
    stream = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(stream, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    sys.exit(cli.main(words))
