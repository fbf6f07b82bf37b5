"""Shared by all benchmark builders: unpacking, checks of files, worker processes, atomic writes.

A build resumes without a journal: a file that exists is whole (a rename put it in place), so a run that was killed is
run again. Masks hold a digest of their source, and are made again when that was replaced.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import multiprocessing
import os
import signal
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fewseg.core.errors import FewsegError, InvalidDataset, InvalidImage, InvalidMask, one_line
from fewseg.core.files import make_folder, replacing
from fewseg.core.prediction import IGNORE
from fewseg.core.progress import ProgressCallback
from fewseg.data.datasets.pascal5i import voc_colour
from fewseg.images import decode as decoding

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_R = TypeVar("_R")


_NAMED: Final = 5
"""Damaged files that are named in one message, at most."""

_CHUNK: Final = 1 << 20

_SOURCE: Final = "fewseg source"
"""Key of the PNG text chunk that holds the digest of a mask's source."""


@dataclass(frozen=True)
class Archive:
    """Something that is downloaded by hand."""

    file: str
    """The archive's name."""
    folder: str
    """What it unpacks to, relative to the root; for messages."""
    home: str
    """Where it is obtained, in words."""


def unpack(root: Path, archive: Archive, progress: ProgressCallback) -> bool:
    """Unpack the archive if it lies in the root; goes on where a killed run stopped. False where it does not lie there.

    Files already there at their full size are kept; every other is written whole or not at all.
    """
    path = root / archive.file
    if not path.is_file():
        return False
    log.info("unpacking %s", path)
    marker = unpacking_marker(root, archive)
    make_folder(marker.parent)
    marker.touch()
    try:
        for name, size, stream, done in _members(path):
            target = _inside(root, name, path)
            if not (target.is_file() and target.stat().st_size == size):
                make_folder(target.parent)
                with replacing(target) as temporary, temporary.open("wb") as file:
                    for chunk in _chunks(stream, path, archive):
                        file.write(chunk)
            progress(int(1000 * done), 1000, f"unpacking {archive.file}")
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
        raise _broken(path, archive, error) from error
    marker.unlink()
    return True


def unpacking_marker(root: Path, archive: Archive) -> Path:
    """A file that exists while an archive is being unpacked, and stays after an unpacking that did not end."""
    return root / "fewseg" / f"{archive.file}.unpacking"


def _members(path: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes] | None], float]]:
    """Name, size and content of every regular file of a .zip or .tar, and the share of the archive that is done."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as zipped:
            total = sum(info.compress_size for info in zipped.infolist()) or 1
            done = 0
            for info in zipped.infolist():
                done += info.compress_size
                if not info.is_dir():
                    yield info.filename, info.file_size, functools.partial(zipped.open, info), done / total
        return
    with path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r:*") as tar:
        total = path.stat().st_size or 1
        for member in tar:
            if member.isfile():
                yield member.name, member.size, functools.partial(tar.extractfile, member), raw.tell() / total
        assert tar.fileobj is not None
        tar.fileobj.seek(tar.offset)
        # tarfile takes a cut between two files for the end.
        if len(tar.fileobj.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise EOFError("the end mark is missing")


def _chunks(stream: Callable[[], IO[bytes] | None], path: Path, archive: Archive) -> Iterator[bytes]:
    try:
        opened = stream()
        assert opened is not None  # regular files only
        with opened as source:
            while chunk := source.read(_CHUNK):
                yield chunk
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
        raise _broken(path, archive, error) from error


def _broken(path: Path, archive: Archive, error: Exception) -> InvalidDataset:
    return InvalidDataset(
        f"{path} is damaged or cut off ({one_line(error)}): get it again from {archive.home}, then run the same command"
    )


def _inside(root: Path, name: str, archive: Path) -> Path:
    target = root / name
    if not target.resolve().is_relative_to(root.resolve()):
        raise InvalidDataset(f"{archive} would write outside the root ({name!r}): it is not the published archive")
    return target


def require(root: Path, needed: Sequence[tuple[Archive, bool]], more: Sequence[str] = ()) -> None:
    """Raise `InvalidDataset` that lists, on one line, every archive whose folder is not there (False), and `more`."""
    lacks = [f"{a.folder} (archive {a.file}, from {a.home})" for a, found in needed if not found]
    if lacks or more:
        raise InvalidDataset(f"{root} lacks {'; '.join([*lacks, *more])}: put what is missing there and run this again")


def check_image(path: Path, *, whole: bool) -> tuple[int, int]:
    """(width, height) as stored; raises `InvalidImage` for a file that is damaged or cut off.

    Without `whole` a file that ends as its format ends counts as sound; with it, or where that mark is missing, all
    pixels are decoded.
    """
    with decoding.open_file(path, "image", InvalidImage) as image:
        if whole or not _ends_well(path):
            decoding.decode(image, os.fspath(path), InvalidImage)
        return image.size


def _ends_well(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-min(64, path.stat().st_size), os.SEEK_END)
        tail = file.read()
    return b"\xff\xd9" in tail or b"IEND" in tail


def save_mask(path: Path, values: NDArray[np.uint8], source: bytes) -> None:
    """Write a palette PNG whose indexes are `values`, atomically, with a digest of its source."""
    image = Image.fromarray(values)
    image.putpalette([channel for value in range(256) for channel in voc_colour(value)])
    about = PngInfo()
    about.add_text(_SOURCE, _digest(source))
    with replacing(path) as temporary:
        image.save(temporary, "PNG", pnginfo=about)


def made_from(path: Path, source: bytes) -> bool | None:
    """Whether `save_mask` wrote the mask from this source; None for a mask from elsewhere."""
    with decoding.open_file(path, "mask", InvalidMask) as image:
        stated = image.info.get(_SOURCE)
    return None if stated is None else bool(stated == _digest(source))


def _digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:16]


def areas_of(values: NDArray[np.uint8]) -> dict[int, int]:
    """Class ids (value - 1) with their number of pixels; background and 255 left out."""
    counts = np.bincount(values.reshape(-1), minlength=256)
    return {int(v) - 1: int(counts[v]) for v in counts.nonzero()[0] if 0 < v < IGNORE}


def in_processes(
    work: Callable[[_T], _R], items: Sequence[_T], workers: int, progress: ProgressCallback, word: str
) -> list[_R]:
    """`work(item)` of all items, in order, by `workers` processes (0: one a core; 1: this process)."""
    workers = min(workers or _cores(), max(1, len(items) // 8))
    results: list[_R] = []
    chunk = max(1, min(64, len(items) // (8 * workers)))
    try:
        for result in _each(work, items, workers, chunk):
            results.append(result)
            progress(len(results), len(items), word)
    except BrokenProcessPool as error:
        raise InvalidDataset(
            "a worker process was killed, perhaps for want of memory: run the same command again with fewer --workers"
        ) from error
    return results


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _each(work: Callable[[_T], _R], items: Sequence[_T], workers: int, chunk: int) -> Iterator[_R]:
    if workers == 1:
        yield from map(work, items)
        return
    pool = ProcessPoolExecutor(workers, initializer=_follow)
    try:
        yield from pool.map(work, items, chunksize=chunk)
    finally:
        pool.shutdown(cancel_futures=True)


def _follow() -> None:
    """A worker leaves interrupts to the process that started it and ends with that, also where it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    starter = multiprocessing.parent_process()
    assert starter is not None  # not `os.getppid`: workers may be forked by a process between the two

    def watch() -> None:
        starter.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def sound(results: Iterable[_R | FewsegError]) -> list[_R]:
    """The results; raises `InvalidDataset` that names the first files that could not be used, if any."""
    good: list[_R] = []
    bad: list[FewsegError] = []
    for result in results:
        if isinstance(result, FewsegError):
            bad.append(result)
        else:
            good.append(result)
    if bad:
        named = "; ".join(str(error) for error in bad[:_NAMED])
        more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise InvalidDataset(f"{len(bad)} files cannot be used: {named}{more}; then run the same command again")
    return good
