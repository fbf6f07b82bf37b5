"""The files of an annotation project, in a hidden folder beside the images.

    .fewseg/project.json          labels, which mask belongs to which image, history; written whole at every change
    .fewseg/project.backup.json   the same, one change older
    .fewseg/annotations/*.png     hand-made masks, 0 and 255, at the image's size; never changed once written
    .fewseg/cache/                results that can be computed again
    .fewseg/lock                  locked while a server has the folder open; lock.owner says which

A mask is on the disk before the project file refers to it, and both are written under another name and moved into
place: whenever the server is killed, the project file is complete and every mask that it refers to exists.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import OutputError
from fewseg.core.files import free_name, make_folder, replacing
from fewseg.core.locks import FolderLock
from fewseg.images.encode import encode, mask_image
from fewseg.images.masks import read_mask
from fewseg.server.project.state import InvalidProject, State, from_json, to_json

log = logging.getLogger(__name__)

FOLDER: Final = ".fewseg"


class ProjectStore:
    """Reads and writes the files of one project, which one process at a time may open."""

    def __init__(self, folder: Path) -> None:
        """Make the hidden folder where missing and lock it.

        Raises `OutputError` where that fails, its kind `FolderInUse` when another server has it open.
        """
        self.root = make_folder(folder / FOLDER)
        self.file, self.backup = self.root / "project.json", self.root / "project.backup.json"
        self.masks, self.cache = make_folder(self.root / "annotations"), make_folder(self.root / "cache")
        self._lock = FolderLock(self.root, "lock")
        try:
            ignored = self.root / ".gitignore"
            if not ignored.exists():
                _write(ignored, b"cache/\nlock\nlock.owner\n")
        except OutputError:
            self._lock.release()
            raise

    def close(self) -> None:
        """Release the lock, so that another process can open the project."""
        self._lock.release()

    # ------------------------------------------------------------------------------------------ project file

    def load(self) -> tuple[State, list[str]]:
        """The saved state, and messages about damage for the user.

        A damaged project file is renamed and its backup used. Raises `InvalidProject` where that is damaged too.
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
        damaged = f"project.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        kept = self.file.with_name(
            free_name(damaged, lambda name: self.file.with_name(f"{name}.json").exists(), numbered="{}-{}") + ".json"
        )
        with contextlib.suppress(OSError):  # otherwise the next `save` would copy it over the backup
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
            raise InvalidProject("it is no project: its values are nested too deeply") from None
        except ValueError as error:
            raise InvalidProject(f"it is not complete: {error}") from error

    def save(self, state: State) -> None:
        """Write the state atomically; raises `OutputError`, and the older file stays."""
        if self.file.exists():
            try:
                with replacing(self.backup) as temporary:
                    shutil.copyfile(self.file, temporary)
            except OutputError as error:  # such as a full disk; the project file itself matters more
                log.warning("no backup: %s", error)
        _write(self.file, json.dumps(to_json(state), indent=1).encode())

    # ------------------------------------------------------------------------------------------ masks

    def write_mask(self, name: str, mask: NDArray[np.bool_]) -> None:
        """Write a mask (H, W) as a PNG of 0 and 255, atomically; raises `OutputError`."""
        _write(self.masks / name, encode(mask_image(mask), "PNG", compress_level=4))

    def read_mask(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """A saved mask (H, W); raises `InvalidMask` where it is missing, damaged or of another size."""
        return read_mask(self.masks / name, size=size) == 1

    def collect(self, state: State) -> None:
        """Delete the masks that neither the state nor its history refers to."""
        kept = state.files
        for file in self.masks.glob("*.png"):
            if file.name not in kept:
                with contextlib.suppress(OSError):
                    file.unlink()


def _write(path: Path, content: bytes) -> None:
    """Write atomically and wait until the content is on the disk, so that it survives a power cut."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
