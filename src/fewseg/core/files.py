"""Writing files so that a reader sees the old one or the new one, never half of one."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from fewseg.core.errors import OutputError

_TEMPORARY: Final = re.compile(r"\.([0-9]+)(-[0-9a-f]{8})?\.tmp$")
"""Ends the names that `replacing` gives: the number of the process, and one of the call (older versions had none)."""

_SYNCHRONIZE: Final = 0x0010_0000
_ACCESS_DENIED: Final = 5
"""Windows': the right to wait for a process, and the error for one that is another person's."""

_LONGEST: Final = 200
"""Bytes of a name that are kept."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well.

    Threads, processes and machines may write the same path at the same time: the last to end well stays. Raises
    `OutputError` where it cannot be written; an older file then stays as it was.
    """
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror or error}; free space or choose another") from error
    finally:
        with suppress(OSError):  # it is gone, or was never there: what went wrong is said above
            temporary.unlink()


def cut_name(name: str) -> str:
    """As much of the name as leaves room for endings, in the 255 bytes that file systems give a name."""
    encoded = name.encode("utf-8", "surrogateescape")
    return name if len(encoded) <= _LONGEST else encoded[:_LONGEST].decode("utf-8", "ignore")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 file atomically; raises `OutputError`."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a binary file atomically; raises `OutputError`."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove_leftovers(folder: str | os.PathLike[str], *, spare_running: bool = False) -> int:
    """Remove the temporary files that processes left below a folder when they were killed.

    Nobody else may be writing there; with `spare_running`, other processes of this machine may. Returns how many;
    those that cannot be removed stay.
    """
    removed = 0
    for root, _, files in os.walk(folder):
        for name in files:
            found = _TEMPORARY.search(name)
            if found and not (spare_running and _is_running(int(found[1]))):
                with suppress(OSError):
                    os.unlink(os.path.join(root, name))
                    removed += 1
    return removed


def _is_running(process: int) -> bool:
    if os.name == "nt":  # where `os.kill` ends the process, whatever the signal
        return _runs_on_windows(process)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _runs_on_windows(process: int) -> bool:
    kernel = getattr(ctypes, "WinDLL")("kernel32", use_last_error=True)  # noqa: B009 - elsewhere there is none
    if not (handle := kernel.OpenProcess(_SYNCHRONIZE, False, process)):
        return bool(getattr(ctypes, "get_last_error")() == _ACCESS_DENIED)  # noqa: B009
    has_ended = kernel.WaitForSingleObject(handle, 0) == 0
    kernel.CloseHandle(handle)
    return not has_ended


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder, made with its parents where missing; raises `OutputError`."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}; choose another") from error
    return folder


def folder_name(label: str, taken: set[str]) -> str:
    """A name for the label's folder: without characters that some system refuses, unlike those taken; is then taken."""
    plain = cut_name(re.sub(r"[^\w\- .]", "_", label)).strip(" .") or "_"
    name = free_name(plain, lambda name: name.casefold() in taken)
    taken.add(name.casefold())
    return name


def free_name(first: str, is_taken: Callable[[str], bool], *others: str, numbered: str = "{}_{}") -> str:
    """The first of a name, `others`, and the name with 2, 3, 4 ... that is not taken.

    >>> free_name("a", {"a", "b", "a_2"}.__contains__, "b")
    'a_3'
    """
    names = itertools.chain((first, *others), (numbered.format(first, number) for number in itertools.count(2)))
    return next(name for name in names if not is_taken(name))
