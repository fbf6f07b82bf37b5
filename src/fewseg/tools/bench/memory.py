"""Peak memory, each way in a process of its own, so that nothing that another left behind counts or helps."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

import torch

from fewseg.core.memory import PEAK_ENVIRONMENT, available_bytes

LOG = logging.getLogger(__name__)

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

_SAFE: Final = 0.6
"""Share of the available memory that a measurement may need."""


def peak_mebibytes(task: str, device: torch.device, *, threads: int = 0, **arguments: Any) -> dict[str, float | None]:
    """MiB by name that `task` (MODULE:FUNCTION of this package) measures in a process of its own.

    None where memory did not suffice; nothing at all where the process did not survive, with a line in the log.
    """
    spec = {"task": task, "device": str(device), "threads": threads, "arguments": arguments}
    command = [sys.executable, "-m", "fewseg.tools.bench.peak", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **PEAK_ENVIRONMENT})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        LOG.warning("memory of %s %s could not be measured: exit code %d, %s", task, arguments, done.returncode, reason)
        return {}
    measured: dict[str, float | None] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def together(measurements: Mapping[_Key, Callable[[], _Value]]) -> dict[_Key, _Value]:
    """What several measurements give, two at a time: processes do not see each other's memory."""
    with ThreadPoolExecutor(2) as pool:
        waiting = {key: pool.submit(measure) for key, measure in measurements.items()}
        return {key: future.result() for key, future in waiting.items()}


def fits(needed: float, device: torch.device) -> bool:
    """Whether so many bytes can be asked for without driving others, or this process, out of memory."""
    available = available_bytes(device)
    return available is None or needed <= _SAFE * available
