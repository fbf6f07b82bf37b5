"""The files of an annotation project, in a hidden folder beside the images.

    .fewseg/project.json          labels, which mask belongs to which image, history; written whole at every change
    .fewseg/project.backup.json   the same, one change older
    .fewseg/annotations/*.png     hand-made masks, 0 and 255, at the image's size; never changed once written
    .fewseg/cache/                what can be computed again
    .fewseg/lock                  held while a server has the folder open

A mask is on the disk before the project file names it, and both are written under another name and moved into place:
whenever the server is killed, the project file is whole and every mask that it names is there.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import OutputError
from fewseg.core.files import make_folder, replacing
from fewseg.images.masks import read_mask
from fewseg.server.project.state import InvalidProject, State, from_json, to_json

log = logging.getLogger(__name__)

FOLDER: Final = ".fewseg"


class ProjectStore:
    """Reads and writes one project's files; one process at a time holds it."""

    def __init__(self, folder: Path) -> None:
        """Make the hidden folder where missing and lock it.

        Raises `OutputError` where that fails and `InvalidProject` when another server has it open.
        """
        self.root = make_folder(folder / FOLDER)
        self.file, self.backup = self.root / "project.json", self.root / "project.backup.json"
        self.masks, self.cache = make_folder(self.root / "annotations"), make_folder(self.root / "cache")
        self._lock = _Lock(self.root / "lock", folder)
        try:
            ignored = self.root / ".gitignore"
            if not ignored.exists():
                _write(ignored, b"cache/\nlock\n")
        except OutputError:
            self._lock.release()
            raise

    def close(self) -> None:
        """Let others open it."""
        self._lock.release()

    # ------------------------------------------------------------------------------------------ project file

    def load(self) -> tuple[State, list[str]]:
        """The saved state, and what a person should know about it.

        A damaged project file is kept under another name and its backup used. Raises `InvalidProject` where that is
        damaged too.
        """
        if not self.file.exists() and not self.backup.exists():
            return State(), []
        try:
            return self._read(self.file), []
        except InvalidProject as error:
            reason = str(error)
        try:
            state = self._read(self.backup)
        except InvalidProject as error:
            raise InvalidProject(
                f"{self.file} cannot be used ({reason}), nor its backup ({error}): move both away to start anew; "
                f"your masks stay in {self.masks}"
            ) from None
        if not self.file.exists():
            return state, []
        now, number = time.strftime("%Y%m%d-%H%M%S"), 1
        kept = self.file.with_name(f"project.damaged-{now}.json")
        while kept.exists():
            number += 1
            kept = self.file.with_name(f"project.damaged-{now}-{number}.json")
        with contextlib.suppress(OSError):  # out of the way: or the next `save` takes it for the backup
            os.replace(self.file, kept)
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.backup.stat().st_mtime))
        notice = (
            f"{self.file.name} was damaged ({reason}): the backup of {changed} is used, at most the last change is "
            f"lost; the damaged file is kept as {kept.name}"
        )
        log.warning("%s: %s", self.root, notice)
        return state, [notice]

    def _read(self, file: Path) -> State:
        try:
            return from_json(json.loads(file.read_text("utf-8")))
        except OSError as error:
            raise InvalidProject(f"it cannot be read: {error.strerror or error}") from error
        except RecursionError:
            raise InvalidProject("it is no project: values within values without end") from None
        except ValueError as error:
            raise InvalidProject(f"it is not whole: {error}") from error

    def save(self, state: State) -> None:
        """Write the state, atomically; raises `OutputError`, and the older one stays."""
        if self.file.exists():
            try:
                with replacing(self.backup) as temporary:
                    shutil.copyfile(self.file, temporary)
            except OutputError as error:  # a full disk: what matters is the file itself
                log.warning("no backup: %s", error)
        _write(self.file, json.dumps(to_json(state), indent=1).encode())

    # ------------------------------------------------------------------------------------------ masks

    def write_mask(self, name: str, mask: NDArray[np.bool_]) -> None:
        """Write a mask (H, W) as a PNG of 0 and 255, atomically; raises `OutputError`."""
        encoded = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8) * np.uint8(255)).save(encoded, "PNG", compress_level=4)
        _write(self.masks / name, encoded.getvalue())

    def read_mask(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """A mask (H, W) that was written; raises `InvalidMask` where it is gone, damaged or of another size."""
        return read_mask(self.masks / name, size=size) == 1

    def collect(self, state: State) -> None:
        """Delete masks that neither the state nor its history needs."""
        kept = state.files
        for file in self.masks.glob("*.png"):
            if file.name not in kept:
                with contextlib.suppress(OSError):
                    file.unlink()


def _write(path: Path, content: bytes) -> None:
    """Write atomically and wait until it is on the disk, so that not even a power cut loses it."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


class _Lock:
    """A lock on a file that the operating system drops with the process, however that ends."""

    def __init__(self, path: Path, folder: Path) -> None:
        try:
            # Not truncated: it may be another's, and tells who that is.
            self._file: Any = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+", encoding="utf-8")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}; make the folder writable") from error
        try:
            _take(self._file)
        except OSError:
            owner = self._file.read(200).strip() or "another process"
            self._file.close()
            raise InvalidProject(f"{folder} is open in another server ({owner}): use that one, or stop it") from None
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        if not self._file.closed:
            self._file.close()


def _take(file: Any) -> None:
    """Lock the open file without waiting; raises `OSError` where another process, or this one, holds it."""
    try:
        import fcntl
    except ImportError:
        import msvcrt  # Windows; bytes far behind the text, which others can read then

        place = 1 << 20
        file.seek(place)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        file.seek(0)
        return
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
