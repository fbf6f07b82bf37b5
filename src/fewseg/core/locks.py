"""Locks on folders, so that two processes never write the same one."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Final

from filelock import FileLock, Timeout

from fewseg.core.errors import FolderInUse, OutputError
from fewseg.core.files import make_folder, write_text

log = logging.getLogger(__name__)

LOCK_FILE: Final = ".fewseg.lock"
"""Name of the lock within a folder; `.owner` behind it names the file that says who holds it."""


class FolderLock:
    """Exclusive use of a folder by this object; the operating system releases it with the process, however that ends.

    Use it as a context manager or call `release`. The empty lock file stays, for removing it would let two processes
    lock different files of the same name.
    """

    def __init__(self, folder: str | os.PathLike[str], name: str = LOCK_FILE) -> None:
        """Make the folder where missing and lock it by the file `name` in it.

        Raises `FolderInUse` where someone else holds it, `OutputError` where it cannot be written.
        """
        path = make_folder(folder) / name
        self._lock, self._owner = FileLock(path, timeout=0, thread_local=False), path.with_name(f"{name}.owner")
        try:
            self._lock.acquire()
            write_text(self._owner, f"process {os.getpid()} on {socket.gethostname()}\n")
        except Timeout:
            who = self._holder()
            remedy = "wait for it, stop it, or give another folder"
            raise FolderInUse(f"{folder} is in use by another fewseg ({who}): {remedy}") from None
        except NotImplementedError:  # some network drives
            log.warning("%s cannot be locked: see to it that nothing else writes there", folder)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}; make the folder writable") from error
        except BaseException:
            self._lock.release()
            raise

    def _holder(self) -> str:
        with contextlib.suppress(OSError):
            return self._owner.read_text("utf-8", "replace")[:200].strip() or "another process"
        return "another process"

    def release(self) -> None:
        """Let others use the folder; a second call does nothing."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                self._owner.unlink()
            self._lock.release()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def is_lock(path: Path) -> bool:
    """Whether a file in a folder belongs to its lock."""
    return path.name in (LOCK_FILE, f"{LOCK_FILE}.owner")
