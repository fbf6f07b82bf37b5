"""The images in a project's folder, recognised after they were moved or renamed.

An image's id is a hash of its path. For annotated images the hash of the file is known too: under a new name they keep
their id and masks, and another file under the old name is another image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from fewseg.core.errors import InvalidImage
from fewseg.images import read_image_size
from fewseg.images.kinds import is_image, tell_unread
from fewseg.server.project.state import KnownImage

EXPORT_MARK: Final = ".fewseg-export"
"""A file of this name marks an exported folder, which is not scanned for images."""


@dataclass(frozen=True)
class ImageEntry:
    """An image of the folder."""

    id: str
    name: str
    """Its path relative to the folder, with forward slashes."""
    path: Path
    bytes: int
    mtime_ns: int
    width: int = 0
    height: int = 0
    """Upright; 0 where the image cannot be read."""
    error: str | None = None
    """Why the image cannot be read."""

    @cached_property
    def identity(self) -> str:
        """Hash of path, size and time: changes with the file and its location."""
        return hashlib.sha256(f"{self.name}\0{self.bytes}\0{self.mtime_ns}".encode("utf-8", "replace")).hexdigest()[:24]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), upright."""
        return self.width, self.height

    @property
    def shown_name(self) -> str:
        """The name as valid text: file systems allow names that are not."""
        return self.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@dataclass(frozen=True)
class Scan:
    """The result of scanning a folder."""

    images: tuple[ImageEntry, ...]
    """Sorted by name."""
    known: Mapping[str, KnownImage]
    """The images known before, with their new locations."""
    missing: tuple[KnownImage, ...]
    """Known images that are not in the folder."""


def scan(
    folder: Path, known: Mapping[str, KnownImage], before: Iterable[ImageEntry] = (), ignored: Set[str] = frozenset()
) -> Scan:
    """Scan a folder for images, recursively; hidden files and exports are left out.

    `before` is the result of the last scan: unchanged files are not opened again; files named `ignored` are left out.
    Raises `InvalidImage` where the folder cannot be read.
    """
    sizes = {(p.name, p.bytes, p.mtime_ns): p.size for p in before if p.error is None}
    files = [file for file in _files(folder) if file[0] not in ignored]
    ids = {name: identifier for identifier, name in _locations(folder, files, known).items()}
    entries: list[ImageEntry] = []
    for name, bytes_, changed in files:
        width, height = sizes.get((name, bytes_, changed), (0, 0))
        identifier = ids.get(name) or _new_id(name, bytes_, changed, known)
        entries.append(ImageEntry(identifier, name, folder / name, bytes_, changed, width, height))
    with ThreadPoolExecutor(4) as pool:  # mostly waits for the disk
        measured = {p.name: p for p in pool.map(_measured, [p for p in entries if not p.width])}
    images = tuple(measured.get(p.name, p) for p in entries)
    here = {p.id: p for p in images}
    moved = {
        i: replace(k, path=here[i].name, bytes=here[i].bytes, mtime_ns=here[i].mtime_ns) if i in here else k
        for i, k in known.items()
    }
    return Scan(images, moved, tuple(k for i, k in known.items() if i not in here))


def _measured(image: ImageEntry) -> ImageEntry:
    """The image with its size, or with the error from reading it."""
    try:
        width, height = read_image_size(image.path)
    except InvalidImage as error:
        return replace(image, error=str(error).replace(str(image.path), image.shown_name))
    return replace(image, width=width, height=height)


def file_digest(path: Path) -> str:
    """A hash of a file's content; raises `InvalidImage` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError as error:
        raise InvalidImage(f"{path}: {error.strerror or error}; check the image") from error


def _files(folder: Path) -> Iterator[tuple[str, int, int]]:
    """(relative name, bytes, time of change) of every image, sorted."""

    def refuse(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise InvalidImage(f"{folder}: {error.strerror or error}; give a folder of images") from error

    entries = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        if EXPORT_MARK in files:
            folders[:] = []
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        tell_unread(root, files)
        for name in files:
            path = Path(root, name)
            if not is_image(name):
                continue
            try:
                status = path.stat()
            except OSError:  # deleted meanwhile, or a dangling link
                continue
            entries.append((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    yield from sorted(entries)


def _locations(folder: Path, files: list[tuple[str, int, int]], known: Mapping[str, KnownImage]) -> dict[str, str]:
    """Id to present name of the known images in the folder."""
    by_name = {name: (size, changed) for name, size, changed in files}
    locations: dict[str, str] = {}
    for identifier, image in known.items():
        stamp = by_name.get(image.path)
        same = stamp == (image.bytes, image.mtime_ns)
        if same or (stamp is not None and stamp[0] == image.bytes and _is(folder / image.path, image)):
            locations[identifier] = image.path
    used = set(locations.values())
    for identifier, image in known.items():
        if identifier in locations:
            continue
        for name, size, _ in files:
            if size == image.bytes and name not in used and _is(folder / name, image):
                locations[identifier] = name
                used.add(name)
                break
    return locations


def _is(path: Path, image: KnownImage) -> bool:
    try:
        return file_digest(path) == image.digest
    except InvalidImage:
        return False


def _new_id(name: str, size: int, changed: int, known: Mapping[str, KnownImage]) -> str:
    """The id of an unknown image: a hash of its path, or of path, size and time where that id is taken."""
    plain = PurePosixPath(name).as_posix().encode("utf-8", "surrogateescape")
    identifier = hashlib.sha256(plain).hexdigest()[:12]
    if identifier in known:
        identifier = hashlib.sha256(plain + f"\0{size}\0{changed}".encode()).hexdigest()[:12]
    return identifier
