"""The aggregation as one loop in C, compiled for this processor when it is first asked for.

Scores are exponentiated in the registers in which they were computed and never stored. float32 multiplies with the
vector unit, bfloat16 with the tile unit (AMX) where there is one; other precisions are computed as float32. The
library is kept in the user's cache folder under a name made of the source, the compiler and the processor.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import math
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from fewseg.models.ops.mask_aggregation.arguments import Arguments
from fewseg.models.ops.mask_aggregation.tiled import Forward

log = logging.getLogger(__name__)

SWITCH: Final = "FEWSEG_NATIVE"
"""Environment variable; 0 leaves the C code alone."""

_SOURCE: Final = Path(__file__).with_name("native.c")
_FLAGS: Final = ("-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
_COMPILE_SECONDS: Final = 120

_LONGS: Final = (
    *("query_batch", "query_token", "key_batch", "key_token", "value_batch", "value_token", "value_column"),
    *("batch", "heads", "queries", "keys", "width", "columns"),
)


class _Task(ctypes.Structure):
    """`Task` of native.c, field by field."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "key", "values", "out", "lse")),
        *((name, ctypes.c_int64) for name in _LONGS),
        ("scale", ctypes.c_float),
        ("half", ctypes.c_int32),
        ("threads", ctypes.c_int32),
    )


def available() -> bool:
    """Whether the C code runs here and gives what torch gives; compiles it at the first call (a second or two)."""
    return _library() is not None


def why_not() -> str:
    """For an error: what is missing where `available` is false."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0 switches it off"
    return "it needs a C compiler (cc, gcc or clang) with OpenMP" if _compiler() is None else "it did not compile here"


def has_tiles() -> bool:
    """Whether the processor multiplies bfloat16 by tiles."""
    library = _library()
    return library is not None and bool(library.has_tiles())


def forward(a: Arguments) -> Forward:
    """Results and denominators, without a graph."""
    library = _library()
    assert library is not None
    half = a.query.dtype == torch.bfloat16 and bool(library.has_tiles())
    q, k = (_side_by_side(t if half else t.float()) for t in (a.query, a.key))
    if a.scale < 0:  # the C code compares scores before it scales them
        q = -q
    v = a.values.detach().float()
    b, heads, nq, width = q.shape
    out, lse = (
        q.new_empty(b, heads, nq, v.shape[2], dtype=torch.float32),
        q.new_empty(b, heads, nq, dtype=torch.float32),
    )
    if out.numel() == 0:
        return Forward(out, lse)
    task = _Task(q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), lse.data_ptr())
    numbers = (_batch_stride(q), q.stride(2), _batch_stride(k), k.stride(2), _batch_stride(v), v.stride(1), v.stride(2))
    for name, number in zip(_LONGS, (*numbers, b, heads, nq, k.shape[2], width, v.shape[2]), strict=True):
        setattr(task, name, number)
    task.scale, task.half, task.threads = abs(a.scale) * math.log2(math.e), half, torch.get_num_threads()
    if library.aggregate(ctypes.byref(task)):
        raise MemoryError("no memory for the scratch space of the aggregation")
    return Forward(out, lse)


def _batch_stride(t: Tensor) -> int:
    return t.stride(0) if t.shape[0] > 1 else 0


def _side_by_side(t: Tensor) -> Tensor:
    """(B, heads, N, d) whose heads lie side by side in each token, as the C code reads them."""
    t = t.detach()
    width = t.shape[-1]
    sides = t.stride(-1) == 1 or width == 1
    return t if sides and (t.stride(1) == width or t.shape[1] == 1) else t.transpose(1, 2).contiguous().transpose(1, 2)


@functools.cache
def _library() -> ctypes.CDLL | None:
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        library = ctypes.CDLL(str(_compiled()))
    except (OSError, subprocess.SubprocessError) as error:
        log.info("the aggregation's C code is not used: %s", error)
        return None
    library.aggregate.argtypes = (ctypes.c_void_p,)
    return library


def _compiler() -> str | None:
    names = (os.environ.get("CC", ""), "cc", "gcc", "clang")
    return next((path for name in names if name and (path := shutil.which(name))), None)


def _compiled() -> Path:
    """Path of the library, compiled if it is not there. Raises `OSError` or `SubprocessError`."""
    compiler = _compiler()
    if compiler is None:
        raise OSError("no C compiler on the path")
    version = subprocess.run([compiler, "--version"], capture_output=True, timeout=_COMPILE_SECONDS, check=True).stdout
    made_of = b"\0".join((_SOURCE.read_bytes(), compiler.encode(), version, " ".join(_FLAGS).encode(), _processor()))
    name = f"aggregation-{hashlib.sha256(made_of).hexdigest()[:20]}.so"
    target = _cache() / name
    return target if target.exists() else _compile(compiler, target)


def _compile(compiler: str, target: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [compiler, *_FLAGS, "-fopenmp", str(_SOURCE), "-o", str(made), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
        os.replace(made, target)
    return target


def _cache() -> Path:
    """A folder that this user alone can write: the cache folder, else a new one for this process."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fewseg"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        about = folder.stat()
    except OSError:
        return Path(tempfile.mkdtemp(prefix="fewseg-"))
    mine = about.st_uid == os.getuid() and not about.st_mode & 0o022 if hasattr(os, "getuid") else True
    return folder if mine and os.access(folder, os.W_OK) else Path(tempfile.mkdtemp(prefix="fewseg-"))


def _processor() -> bytes:
    """What `-march=native` depends on: homes are shared between machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".encode()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "Features", "CPU part"))})).encode()
