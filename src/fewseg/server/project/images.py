"""Which images a project's folder holds, told apart from files that were moved, renamed or changed.

An image's id comes from its path. Of images that somebody worked on the file's hash is known too: under a new name
they keep id and masks, and another file under the old name is another image.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from fewseg.core.errors import InvalidImage
from fewseg.images import SUFFIXES, read_image_size
from fewseg.server.project.state import KnownImage

EXPORT_MARK: Final = ".fewseg-export"
"""A file of this name marks a folder of results, which holds masks, not images."""


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
    """Upright; 0 where it cannot be read."""
    error: str | None = None
    """Why it cannot be read."""

    @cached_property
    def identity(self) -> str:
        """Changes with the file, and with its place."""
        return hashlib.sha256(f"{self.name}\0{self.bytes}\0{self.mtime_ns}".encode("utf-8", "replace")).hexdigest()[:24]

    @property
    def size(self) -> tuple[int, int]:
        """(width, height), upright."""
        return self.width, self.height

    @property
    def shown_name(self) -> str:
        """The name as valid text: file systems admit names that are none."""
        return self.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


@dataclass(frozen=True)
class Scan:
    """What was found."""

    images: tuple[ImageEntry, ...]
    """Sorted by name."""
    known: Mapping[str, KnownImage]
    """Those known before, with their new places."""
    missing: tuple[KnownImage, ...]
    """Known images that are not there."""


def scan(folder: Path, known: Mapping[str, KnownImage], before: Iterable[ImageEntry] = ()) -> Scan:
    """Look for the folder's images, those of its folders included; hidden ones and exports are left out.

    `before` is what the last look found: unchanged files are not opened again. Raises `InvalidImage` where the folder
    cannot be read.
    """
    earlier = {(p.name, p.bytes, p.mtime_ns): p for p in before}
    files = list(_files(folder))
    places = _places(folder, files, known)
    taken: dict[str, str] = {}  # id to name
    for identifier, name in places.items():
        taken[identifier] = name
    ids = {name: identifier for identifier, name in taken.items()}
    found: list[ImageEntry] = []
    for name, size, changed in files:
        identifier = ids.get(name) or _new_id(name, size, changed, known)
        found.append(ImageEntry(identifier, name, folder / name, size, changed))

    def known_size(image: ImageEntry) -> bool:
        same = earlier.get((image.name, image.bytes, image.mtime_ns))
        return same is not None and same.error is None

    def measured(image: ImageEntry) -> ImageEntry:
        same = earlier.get((image.name, image.bytes, image.mtime_ns))
        if same is not None and same.error is None:
            return replace(image, width=same.width, height=same.height)
        try:
            width, height = read_image_size(image.path)
        except InvalidImage as error:
            return replace(image, error=str(error).replace(str(image.path), image.shown_name))
        return replace(image, width=width, height=height)

    with ThreadPoolExecutor(4) as pool:  # mostly waits for the disk
        new = {p.name: p for p in pool.map(measured, [p for p in found if not known_size(p)])}
    images = tuple(new.get(p.name) or measured(p) for p in found)
    here = {p.id: p for p in images}
    moved = {
        i: replace(k, path=here[i].name, bytes=here[i].bytes, mtime_ns=here[i].mtime_ns) if i in here else k
        for i, k in known.items()
    }
    return Scan(images, moved, tuple(k for i, k in known.items() if i not in here))


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

    found = []
    for root, folders, files in os.walk(folder, onerror=refuse):
        if EXPORT_MARK in files:
            folders[:] = []
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            path = Path(root, name)
            if path.suffix.lower() not in SUFFIXES or name.startswith("."):
                continue
            try:
                status = path.stat()
            except OSError:  # gone since, or a link to nowhere
                continue
            found.append((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    yield from sorted(found)


def _places(folder: Path, files: list[tuple[str, int, int]], known: Mapping[str, KnownImage]) -> dict[str, str]:
    """Id to name of the known images that are here, wherever they are now."""
    by_name = {name: (size, changed) for name, size, changed in files}
    places: dict[str, str] = {}
    for identifier, image in known.items():
        stamp = by_name.get(image.path)
        same = stamp == (image.bytes, image.mtime_ns)
        if same or (stamp is not None and stamp[0] == image.bytes and _is(folder / image.path, image)):
            places[identifier] = image.path
    used = set(places.values())
    for identifier, image in known.items():
        if identifier in places:
            continue
        for name, size, _ in files:
            if size == image.bytes and name not in used and _is(folder / name, image):
                places[identifier] = name
                used.add(name)
                break
    return places


def _is(path: Path, image: KnownImage) -> bool:
    try:
        return file_digest(path) == image.digest
    except InvalidImage:
        return False


def _new_id(name: str, size: int, changed: int, known: Mapping[str, KnownImage]) -> str:
    """An id for an image that is not known: of its path, unless that is a known image's."""
    plain = PurePosixPath(name).as_posix().encode("utf-8", "surrogateescape")
    identifier = hashlib.sha256(plain).hexdigest()[:12]
    if identifier in known:
        identifier = hashlib.sha256(plain + f"\0{size}\0{changed}".encode()).hexdigest()[:12]
    return identifier
