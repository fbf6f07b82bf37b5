"""Counts unfinished attempts in files, so that the count survives a crash."""

from __future__ import annotations

import shutil
from pathlib import Path

from fewseg.core.errors import OutputError
from fewseg.core.files import make_folder


class Attempts:
    """Counts attempts that share a folder; one process at a time makes any one of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, what: str) -> int:
        """Note an attempt; gives how many there have been since the last that ended. Raises `OutputError`."""
        try:
            with (make_folder(self.folder) / what).open("ab") as file:
                file.write(b".")
                return file.tell()
        except OSError as error:
            raise OutputError(f"cannot write {self.folder / what}: {error.strerror or error}; free space") from error

    def end(self, what: str) -> None:
        """Forget the attempts: the last one ended."""
        (self.folder / what).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget all."""
        shutil.rmtree(self.folder, ignore_errors=True)
