"""Peak memory, each measurement in a process of its own, so that nothing that another left behind counts or helps.

`python -m fewseg_bench.peak_memory SPEC` is that process: it prints MiB by name as JSON. Each piece of work runs
once before, so that what torch sets up the first time does not count.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from fewseg.core.memory import PEAK_ENVIRONMENT, peak_bytes

log = logging.getLogger(__name__)

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

Pieces: TypeAlias = Iterator[tuple[str, Callable[[], object]]]
"""Names and calls to measure, made one after the other."""


def peak_mebibytes(task: str, device: torch.device, *, threads: int = 0, **arguments: Any) -> dict[str, float | None]:
    """MiB by name that `task` (MODULE:FUNCTION of this package) measures in a process of its own.

    None where memory did not suffice; nothing at all where the process did not survive, with a line in the log.
    """
    spec = {"task": task, "device": str(device), "threads": threads, "arguments": arguments}
    command = [sys.executable, "-m", "fewseg_bench.peak_memory", json.dumps(spec)]
    # The process has to find this package, which is not installed.
    path = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, **PEAK_ENVIRONMENT, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        log.warning("memory of %s %s could not be measured: exit code %d, %s", task, arguments, done.returncode, reason)
        return {}
    measured: dict[str, float | None] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def together(measurements: Mapping[_Key, Callable[[], _Value]]) -> dict[_Key, _Value]:
    """What several measurements give, two at a time: processes do not see each other's memory."""
    with ThreadPoolExecutor(2) as pool:
        waiting = {key: pool.submit(measure) for key, measure in measurements.items()}
        return {key: future.result() for key, future in waiting.items()}


def main(text: str) -> None:
    """Measure what the spec names: `task` MODULE:FUNCTION of `fewseg_bench`, its `arguments`, `device`,
    `threads`."""
    spec: dict[str, Any] = json.loads(text)
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    device = torch.device(spec["device"])
    module, function = spec["task"].split(":")
    pieces: Pieces = getattr(importlib.import_module(f"fewseg_bench.{module}"), function)(device, **spec["arguments"])
    measured: dict[str, float | None] = {}
    for name, run in pieces:
        try:
            run()
            measured[name] = peak_bytes(run, device) / 2**20
        except torch.OutOfMemoryError:
            measured[name] = None
    sys.stdout.write(json.dumps(measured) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
