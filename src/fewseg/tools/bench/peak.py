"""The process in which memory is measured: `python -m fewseg.tools.bench.peak SPEC` prints MiB by name as JSON.

Each piece of work runs once before, so that what torch sets up the first time does not count; then everything that can
be given back is given back, and the peak of the second run above that is what the work itself needs.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from fewseg.core import memory
from fewseg.core.memory import LiveTensors

MIB: Final = 2**20

Pieces = Iterator[tuple[str, Callable[[], object]]]
"""Names and what to measure, made one after the other."""


def way_of_measuring(device: torch.device) -> str:
    """`allocator` (CUDA's own count), `resident` (Linux: the process's memory) or `tensors` (elsewhere).

    The last counts the tensors that are alive together, which leaves out what kernels use within.
    """
    if not memory.can_measure(device):
        return "tensors"
    return "allocator" if device.type == "cuda" else "resident"


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """What one call adds at most to what is held before it."""
    run()
    if memory.can_measure(device):
        return memory.peak_bytes(run, device)
    with LiveTensors() as watch:
        run()
    return watch.peak


def main(text: str) -> None:
    """Measure what the spec names: `task` MODULE:FUNCTION of `fewseg.tools.bench`, its `arguments`, `device`,
    `threads`."""
    spec: dict[str, Any] = json.loads(text)
    if spec["threads"]:
        torch.set_num_threads(spec["threads"])
    device = torch.device(spec["device"])
    module, function = spec["task"].split(":")
    pieces: Pieces = getattr(importlib.import_module(f"fewseg.tools.bench.{module}"), function)(
        device, **spec["arguments"]
    )
    measured: dict[str, float | None] = {}
    for name, run in pieces:
        try:
            measured[name] = peak_bytes(run, device) / MIB
        except torch.OutOfMemoryError:
            measured[name] = None
    sys.stdout.write(json.dumps(measured) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
