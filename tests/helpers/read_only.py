"""Folders that may not be written, also for tests that run as root, whom permissions do not bind otherwise."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_VERSION_3: Final = 0x20080522
_OVERRIDES: Final = 1 << 1 | 1 << 2 | 1 << 3
"""Linux' CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Permissions bind this thread and those that it starts meanwhile, as they bind everybody but root."""
    if sys.platform != "linux" or os.geteuid() != 0:
        yield
        return
    libc, header, sets = ctypes.CDLL(None, use_errno=True), _Header(_VERSION_3, 0), (_Sets * 2)()
    if libc.capget(ctypes.byref(header), ctypes.byref(sets)):
        raise OSError(ctypes.get_errno(), "capget")
    before = sets[0].effective
    sets[0].effective = before & ~_OVERRIDES
    if libc.capset(ctypes.byref(header), ctypes.byref(sets)):
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        sets[0].effective = before
        libc.capset(ctypes.byref(header), ctypes.byref(sets))


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing in the folder or below may be changed, added or removed."""
    places = [folder, *folder.rglob("*")]
    modes = [place.stat().st_mode for place in places]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    try:
        with bound_by_permissions():
            yield
    finally:
        for place, mode in zip(places, modes, strict=True):
            place.chmod(mode)
