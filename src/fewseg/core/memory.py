"""Memory in bytes: what is available, and the peak that a call adds."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_SAFE: Final = 0.6
"""Share of the available memory that `fits` allows."""


def available_bytes(device: torch.device) -> int | None:
    """Bytes free to use, a container's limit included; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if device.type != "cpu" or not meminfo.exists():
        return None
    lines = meminfo.read_text("ascii").splitlines()
    free = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)
    limits = [limit for limit in (free, _group_limit()) if limit is not None]
    return min(limits) if limits else None


def fits(needed: float, device: torch.device) -> bool:
    """Whether so many bytes can be taken without driving others, or this process, out of memory."""
    available = available_bytes(device)
    return available is None or needed <= _SAFE * available


def _group_limit() -> int | None:
    """Bytes that the control group (a container's limit) leaves; None where there is no limit."""
    folder = Path("/sys/fs/cgroup")
    try:
        limit = (folder / "memory.max").read_text("ascii").strip()
        used = int((folder / "memory.current").read_text("ascii"))
        stat = (folder / "memory.stat").read_text("ascii").splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    # Pages of files that were read are given up when something needs them.
    cached = sum(int(line.split()[1]) for line in stat if line.startswith(("inactive_file ", "active_file ")))
    return max(0, int(limit) - used + cached)


def peak_source(device: torch.device) -> Literal["allocator", "resident", "tensors"]:
    """How `peak_bytes` measures: by CUDA's allocator, by the process's resident memory (CPU under Linux), or elsewhere
    by the tensors that are alive together, which leaves out what kernels use within."""
    if device.type == "cuda":
        return "allocator"
    return "resident" if device.type == "cpu" and Path("/proc/self/clear_refs").exists() else "tensors"


def can_measure(device: torch.device) -> bool:
    """Whether `peak_bytes` sees all memory of a call there, not its tensors alone."""
    return peak_source(device) != "tensors"


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Peak memory of a call beyond what is held before it, measured as `peak_source` says.

    Resident memory is right in a process whose C library returns large blocks at once (`PEAK_ENVIRONMENT`) and which
    has run the same before.
    """
    if peak_source(device) == "tensors":
        return live_tensor_bytes(run)
    give_back()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", "ascii")  # the peak begins anew
    run()
    return max(0, _resident("VmHWM") - before)


PEAK_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
"""Environment in which glibc returns every block from 256 KiB on at once, so that resident memory is what is held."""


def give_back() -> None:
    """Return unused memory to the system."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):  # another C library: it keeps what it likes
        return


def _resident(field: str) -> int:
    """Bytes of resident memory: now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024


def live_tensor_bytes(run: Callable[[], object]) -> int:
    """Peak bytes of the tensors that a call makes and holds at once: the same number on every machine."""
    with LiveTensors() as watch:
        run()
    return watch.peak


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within and alive at once, views not twice."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, int] = {}
        """Storage to its bytes; 0 for those from before."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, new=False)
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._meet(tensor, new=True)
        return result

    def _meet(self, tensor: Tensor, *, new: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        self._known[key] = storage.nbytes() if new else 0
        self.live += self._known[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key)


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]
