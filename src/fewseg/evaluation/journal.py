"""Finished episodes of an evaluation on disk, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidDataset, OutputError
from fewseg.core.files import make_folder
from fewseg.core.types import Episode
from fewseg.data.datasets.base import Dataset
from fewseg.evaluation.scoring import COUNTS


class Journal:
    """A line for every finished batch, in a file of each process.

    A batch is written in one go and counts as a whole: a line that a kill cut short is not read, and its batch is done
    again. Files are named after everything that the numbers depend on; those of other evaluations are not read.

    Args:
        folder: made where missing.
        about: JSON values; method, episodes, files, settings.
        rank: of this process.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, about: dict[str, Any], rank: int = 0) -> None:
        self.folder = make_folder(folder)
        self._key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        self._path = self.folder / f"{self._key}.{rank}.jsonl"

    def read(self) -> dict[int, NDArray[np.float64]]:
        """Number of every finished episode to its counts, from the files of all processes."""
        rows: dict[int, NDArray[np.float64]] = {}
        for path in sorted(self.folder.glob(f"{self._key}.*.jsonl")):
            for line in path.read_bytes().splitlines():
                rows.update(_parsed(line))
        return rows

    def write(self, numbers: Sequence[int], rows: NDArray[np.float64]) -> None:
        """Add a finished batch; raises `OutputError`."""
        line = json.dumps({"episodes": list(numbers), "rows": rows.tolist()})
        make_folder(self.folder)  # another evaluation that ended may have taken the empty folder away
        try:
            with self._path.open("ab") as file:
                # The line break in front ends what a kill may have left of a line.
                file.write(f"\n{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error.strerror or error}; free space, run again") from error

    def remove(self) -> None:
        """Delete this evaluation's files, of all processes, and the folder where no other one keeps any there."""
        for path in self.folder.glob(f"{self._key}.*.jsonl"):
            path.unlink(missing_ok=True)
        with suppress(OSError):  # others' files
            self.folder.rmdir()


def files_digest(dataset: Dataset, episodes: Sequence[Episode]) -> str:
    """A hash of the files that the episodes are made of, which a corrected mask changes; raises `InvalidDataset`."""
    digest = hashlib.sha256()
    for name in sorted({name for episode in episodes for name in (episode.query, *episode.support)}):
        for path in dataset.files(name):
            try:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except OSError as error:
                raise InvalidDataset(f"cannot read {path}: {error.strerror or error}") from error
    return digest.hexdigest()[:16]


def _parsed(line: bytes) -> dict[int, NDArray[np.float64]]:
    try:
        content = json.loads(line)
        rows = np.asarray(content["rows"], np.float64).reshape(-1, COUNTS)
        return {int(number): row for number, row in zip(content["episodes"], rows, strict=True)}
    except (ValueError, TypeError, KeyError):
        return {}
