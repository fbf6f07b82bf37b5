"""Which images are meant by the files and folders that a person names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fewseg.core.errors import InvalidImage, InvalidOption
from fewseg.images import SUFFIXES
from fewseg.images.kinds import is_image, tell_unread


def find_images(
    queries: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], masks: Iterable[Path] = ()
) -> list[Path]:
    """The files named and those in the folders named, absolute, sorted within a folder, each once.

    Hidden files, the output folder, results of other runs below a folder and `masks` are left out; files named directly
    are kept whatever their ending, and even if they do not exist, to be reported with the others that cannot be read.
    Raises `InvalidImage` for a folder without images, `InvalidOption` where it is the output folder itself.
    """
    found: dict[str, Path] = {}
    skipped = {os.path.realpath(mask) for mask in masks}
    for query in queries:
        path = Path(os.path.abspath(query))
        files = [path]
        if path.is_dir():
            if path.resolve() == Path(out).resolve():  # the next run would take masks and overlays for images
                raise InvalidOption(f"{query} is the output folder, too: choose another, as {Path(query, 'found')}")
            files = [f for f in _images_below(path, Path(out).resolve()) if os.path.realpath(f) not in skipped]
        if not files:
            raise InvalidImage(f"{query} holds no images ({', '.join(sorted(SUFFIXES))}): give files or another folder")
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        raise InvalidImage("no images to segment: give files or folders")
    return list(found.values())


def _images_below(folder: Path, out: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        reason = f"{error.filename}: {error.strerror or error}"
        raise InvalidImage(f"{reason}; make the folder readable, or give others") from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        here = (Path(root, f) for f in sorted(folders) if not f.startswith("."))
        folders[:] = [f.name for f in here if f.resolve() != out and not _holds_results(f)]
        tell_unread(root, files)
        yield from (Path(root, name) for name in sorted(files) if is_image(name))


def _holds_results(folder: Path) -> bool:
    """Whether a run wrote its masks and overlays into a folder, or began to: they are no images to segment."""
    try:
        with (folder / "results.json").open("rb") as file:
            return b'"fewseg.results.' in file.read(200)
    except OSError:
        return (folder / "journal.jsonl").is_file() and (folder / "labels").is_dir()
