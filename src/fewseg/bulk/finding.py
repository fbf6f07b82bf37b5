"""Which pictures are meant by the files and folders that a person names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fewseg.errors import InvalidImage
from fewseg.images import SUFFIXES


def find_pictures(
    queries: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], masks: Iterable[Path] = ()
) -> list[Path]:
    """The files named and those in the folders named, absolute, sorted within a folder, each once.

    Hidden files, the output folder and `masks` are left out; files named directly are kept whatever their ending, and
    even if they do not exist, to be reported with the others that cannot be read. Raises `InvalidImage` for a folder
    without pictures.
    """
    found: dict[str, Path] = {}
    skipped = {os.path.realpath(mask) for mask in masks}
    for query in queries:
        path = Path(os.path.abspath(query))
        files = [path]
        if path.is_dir():
            files = [f for f in _pictures_below(path, Path(out).resolve()) if os.path.realpath(f) not in skipped]
        if not files:
            raise InvalidImage(
                f"{query} holds no pictures ({', '.join(sorted(SUFFIXES))}): give files or another folder"
            )
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        raise InvalidImage("no pictures to segment: give files or folders")
    return list(found.values())


def _pictures_below(folder: Path, out: Path) -> Iterator[Path]:
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and Path(root, f).resolve() != out)
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(root, name)
