"""The process in which memory is measured: `python -m fewseg.bench.peak SPEC` prints MiB by name as JSON.

Each piece of work runs once before, so that what torch sets up the first time does not count; then everything that can
be given back is given back, and the peak of the second run above that is what the work itself needs.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import torch

from fewseg.ablations.costs import LiveTensors
from fewseg.bench.machine import synchronise

MIB: Final = 2**20

Pieces = Iterator[tuple[str, Callable[[], object]]]
"""Names and what to measure, made one after the other."""


def way_of_measuring(device: torch.device) -> str:
    """`allocator` (CUDA's own count), `resident` (Linux: the process's memory) or `tensors` (elsewhere).

    The last counts the tensors that are alive together, which leaves out what kernels use within.
    """
    if device.type == "cuda":
        return "allocator"
    return "resident" if Path("/proc/self/clear_refs").exists() and device.type == "cpu" else "tensors"


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """What one call adds at most to what is held before it."""
    run()
    how = way_of_measuring(device)
    if how == "tensors":
        with LiveTensors() as watch:
            run()
        return watch.peak
    _give_back()
    if how == "allocator":
        torch.cuda.empty_cache()
        synchronise(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak begins anew
    run()
    return max(0, _resident("VmHWM") - before)


def _give_back() -> None:
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library: what it keeps counts
        return


def _resident(field: str) -> int:
    """Bytes of resident memory: now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def main(text: str) -> None:
    """Measure what the spec names: `task` MODULE:FUNCTION of `fewseg.bench`, its `arguments`, `device`, `threads`."""
    spec: dict[str, Any] = json.loads(text)
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    device = torch.device(spec["device"])
    module, function = spec["task"].split(":")
    pieces: Pieces = getattr(importlib.import_module(f"fewseg.bench.{module}"), function)(device, **spec["arguments"])
    measured: dict[str, float | None] = {}
    for name, run in pieces:
        try:
            measured[name] = peak_bytes(run, device) / MIB
        except torch.OutOfMemoryError:
            measured[name] = None
    sys.stdout.write(json.dumps(measured) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
