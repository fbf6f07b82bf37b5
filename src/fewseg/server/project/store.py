"""The files of an annotation project, in a hidden folder beside the images.

    .fewseg/project.json          labels, which mask belongs to which image, history; written whole at every change
    .fewseg/project.backup.json   the same, one change older
    .fewseg/annotations/*.png     hand-made masks, 0 and 255, at the image's size; never changed once written
    .fewseg/unclaimed/*.png       masks that no project file names, where an older file was put back
    .fewseg/cache/                results that can be computed again
    .fewseg/lock                  locked while a server has the folder open; lock.owner says which

A mask is on the disk before the project file refers to it, and both are written under another name and moved into
place: whenever the server is killed, the project file is complete and every mask that it refers to exists.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import OutputError
from fewseg.core.files import free_name, make_folder, remove_leftovers, replacing, write_bytes
from fewseg.core.locks import FolderLock
from fewseg.images.encode import encode, mask_image
from fewseg.images.masks import read_mask
from fewseg.server.project.recovery import labels_in
from fewseg.server.project.state import InvalidProject, Label, State
from fewseg.server.project.state_json import from_json, to_json

log = logging.getLogger(__name__)

FOLDER: Final = ".fewseg"
_CHECKSUM: Final = b',\n "checksum": "%s"\n}'
_CHECKSUM_AT_END: Final = re.compile(rb',\s*"checksum": "([0-9a-f]{64})"\s*\}\s*\Z')
"""Ends a project file: the SHA-256 of the file without it."""


@dataclass(frozen=True)
class Loaded:
    """What a project's folder holds."""

    state: State
    damage: str | None = None
    """The notice for the user where the backup had to be used."""
    labels: Sequence[Label] = ()
    """Labels that can be read in the damaged file."""


class ProjectStore:
    """Reads and writes the files of one project, which one process at a time may open."""

    def __init__(self, folder: Path) -> None:
        """Make the hidden folder where missing and lock it.

        Raises `OutputError` where that fails, its kind `FolderInUse` when another server has it open.
        """
        self.root = make_folder(folder / FOLDER)
        self.file, self.backup = self.root / "project.json", self.root / "project.backup.json"
        self.masks, self.cache = make_folder(self.root / "annotations"), make_folder(self.root / "cache")
        self.unclaimed = self.root / "unclaimed"
        self._last: bytes | None = None
        """Content of the project file as it was last read or written whole."""
        self._lock = FolderLock(self.root, "lock")
        remove_leftovers(self.root)
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

    def load(self) -> Loaded:
        """The saved state; from the backup where the project file is damaged, which is then renamed and kept.

        Raises `InvalidProject` where the backup is damaged, too.
        """
        if not self.file.exists() and not self.backup.exists():
            return Loaded(State())
        try:
            state, self._last = self._read(self.file)
        except InvalidProject as error:
            return self._from_backup(str(error))
        try:
            self._read(self.backup)
        except InvalidProject:
            self._back_up()
        return Loaded(state)

    def _from_backup(self, reason: str) -> Loaded:
        try:
            state, _ = self._read(self.backup)
        except InvalidProject as error:
            raise InvalidProject(
                f"{self.file} cannot be used ({reason}), nor its backup ({error}): move both away to start anew; "
                f"your masks stay in {self.root}"
            ) from None
        changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.backup.stat().st_mtime))
        instead = f"the backup of {changed} is used, with the masks painted since"
        if not self.file.exists():
            return Loaded(state, f"{self.file.name} is missing: {instead}")
        with contextlib.suppress(OSError):
            text = self.file.read_bytes().decode("utf-8", "replace")
        damaged = f"project.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        kept = self.file.with_name(
            free_name(damaged, lambda name: self.file.with_name(f"{name}.json").exists(), numbered="{}-{}") + ".json"
        )
        with contextlib.suppress(OSError):
            os.replace(self.file, kept)
        notice = f"{self.file.name} was damaged ({reason}): {instead}; the damaged file is kept as {kept.name}"
        return Loaded(state, notice, labels_in(text))

    def _read(self, file: Path) -> tuple[State, bytes]:
        """The state in a file, and the file's content; raises `InvalidProject`."""
        try:
            content = file.read_bytes()
            return from_json(json.loads(_checked(content))), content
        except OSError as error:
            raise InvalidProject(f"it cannot be read: {error.strerror or error}") from error
        except RecursionError:
            raise InvalidProject("it is no project: its values are nested too deeply") from None
        except ValueError as error:
            raise InvalidProject(f"it is not complete: {error}") from error

    def save(self, state: State) -> None:
        """Write the state atomically; raises `OutputError`, and the older file stays."""
        self._back_up()
        content = json.dumps(to_json(state), indent=1).encode()
        content = content[:-2] + _CHECKSUM % hashlib.sha256(content).hexdigest().encode()
        _write(self.file, content)
        self._last = content

    def _back_up(self) -> None:
        """Write what was last read or written, not what the disk has made of it since."""
        if self._last is not None:
            try:
                write_bytes(self.backup, self._last)
            except OutputError as error:  # such as a full disk; the project file itself matters more
                log.warning("no backup: %s", error)

    # ------------------------------------------------------------------------------------------ masks

    def write_mask(self, name: str, mask: NDArray[np.bool_]) -> None:
        """Write a mask (H, W) as a PNG of 0 and 255, atomically; raises `OutputError`."""
        _write(self.masks / name, encode(mask_image(mask), "PNG", compress_level=4))

    def read_mask(self, name: str, size: tuple[int, int]) -> NDArray[np.bool_]:
        """A saved mask (H, W); raises `InvalidMask` where it is missing, damaged or of another size."""
        return read_mask(self._path(name), size=size) == 1

    def _path(self, name: str) -> Path:
        aside = self.unclaimed / name  # a project file that was put back names masks that were set aside meanwhile
        return self.masks / name if (self.masks / name).exists() or not aside.exists() else aside

    def names(self) -> list[str]:
        """Names of all saved masks."""
        return sorted(file.name for file in self.masks.glob("*.png"))

    def digest(self, name: str) -> str:
        """The digest of a saved mask of any size; raises `InvalidMask`."""
        return mask_digest(read_mask(self.masks / name) == 1)

    def set_aside(self, names: Iterable[str]) -> Path:
        """Move masks to a folder where no later mask replaces them; the folder."""
        kept = make_folder(self.unclaimed)
        for name in names:
            free = free_name(Path(name).stem, lambda stem: (kept / f"{stem}.png").exists(), numbered="{}_{}")
            with contextlib.suppress(OSError):
                os.replace(self.masks / name, kept / f"{free}.png")
        return kept

    def collect(self, state: State) -> None:
        """Delete the masks that neither the state, its history, nor any other project file in the folder names."""
        kept = set(state.files)
        for file in self.root.glob("project*"):
            with contextlib.suppress(OSError):
                kept.update(re.findall(r"[\w-]+\.png", file.read_bytes().decode("utf-8", "replace")))
        for name in self.names():
            if name not in kept:
                with contextlib.suppress(OSError):
                    (self.masks / name).unlink()


def mask_digest(mask: NDArray[np.bool_]) -> str:
    """Hash of a mask's pixels."""
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()[:32]


def _checked(content: bytes) -> bytes:
    """The content of a project file; raises `ValueError` where its checksum is another one. Old files have none."""
    match = _CHECKSUM_AT_END.search(content)
    if match and hashlib.sha256(content[: match.start()] + b"\n}").hexdigest() != match[1].decode():
        raise ValueError("its checksum does not fit (whoever edits it deletes the checksum's line)")
    return content


def _write(path: Path, content: bytes) -> None:
    """Write atomically and wait until the content is on the disk, so that it survives a power cut."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
