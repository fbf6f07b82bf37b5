"""Peak memory, each way in a process of its own, so that nothing that another left behind counts or helps."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

LOG = logging.getLogger(__name__)

_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")

_SAFE: Final = 0.6
"""Share of the available memory that a measurement may need."""

_ENVIRONMENT: Final = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
"""glibc returns every block from 256 KiB on at once: what is resident is what is held."""


def peak_mebibytes(task: str, device: torch.device, *, threads: int = 0, **arguments: Any) -> dict[str, float | None]:
    """MiB by name that `task` (MODULE:FUNCTION of this package) measures in a process of its own.

    None where memory did not suffice; nothing at all where the process did not survive, with a line in the log.
    """
    spec = {"task": task, "device": str(device), "threads": threads, "arguments": arguments}
    command = [sys.executable, "-m", "fewseg.bench.peak", json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **_ENVIRONMENT})
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


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free to use; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return None
    lines = meminfo.read_text("ascii").splitlines()
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    limits = [limit for limit in (free, _group_limit()) if limit is not None]
    return min(limits) if limits else None


def _group_limit() -> int | None:
    """What the control group (a container's limit) leaves; None where there is none."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text("ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text("ascii"))
        stat = Path("/sys/fs/cgroup/memory.stat").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    # Pages of files that were read are given up when something needs them.
    cached = sum(int(line.split()[1]) for line in stat if line.startswith(("inactive_file ", "active_file ")))
    return max(0, int(limit) - used + cached)


def fits(needed: float, device: torch.device) -> bool:
    """Whether so many bytes can be asked for without driving others, or this process, out of memory."""
    available = available_bytes(device)
    return available is None or needed <= _SAFE * available
