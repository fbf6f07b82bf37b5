"""Segmenting files: from pictures and folders of them to a folder of masks, overlays and results.json.

Worker threads read and resize pictures and write results; the model runs in the calling thread. Only a bounded number
of pictures is under way at any time, results at full size exist only while they are written, and pictures above
`LARGE` pixels pass one at a time, so memory does not grow with the number of pictures.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from PIL import Image
from torch import Tensor

from fewseg.batch_outputs import OutputFolder, Record, picture_identity
from fewseg.decoding import one_line
from fewseg.draw import fitted, overlay
from fewseg.errors import FewsegError, InvalidImage, InvalidOption, OutputError
from fewseg.images import SUFFIXES, picture_size
from fewseg.inputs import PreparedPicture, open_for, prepare
from fewseg.segmenter import Segmenter

log = logging.getLogger(__name__)

OVERLAY_SIDE: Final = 2048
"""Overlays of larger pictures are drawn with this longest side."""

LARGE: Final = 32_000_000
"""Pictures with more pixels than this are read, and written, one at a time."""

Progress = Callable[[int, int, str], None]
"""Called with how many pictures are done, of how many, and the last one's name."""


@dataclass(frozen=True)
class BatchOptions:
    """How files are segmented."""

    overlays: bool = True
    """Also draw the masks on the pictures."""
    overwrite: bool = False
    """Do pictures again that are finished already."""
    batch_size: int = 0
    """Pictures that go through the model together; 0 chooses: 8 on a GPU, 1 else."""
    workers: int = 0
    """Threads that read, and threads that write; 0 chooses: one a core, at most 4."""


@dataclass
class BatchReport:
    """What became of the pictures."""

    results: Path
    """The results.json."""
    done: int = 0
    """Pictures segmented now."""
    skipped: int = 0
    """Pictures that were finished already."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """Pictures that could not be used, and why."""


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


def segment_files(
    segmenter: Segmenter,
    queries: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    options: BatchOptions | None = None,
    masks: Iterable[Path] = (),
    progress: Progress | None = None,
) -> BatchReport:
    """Segment pictures into `out`: see `fewseg.batch_outputs` for what is written there.

    Pictures that an earlier run finished with the same model, examples and options are skipped. One that cannot be
    read is reported in results.json and in the report, and does not stop the others.

    Args:
        segmenter: taught with at least one label.
        queries: files and folders.
        out: the output folder, made if missing.
        options: see `BatchOptions`.
        masks: files in the folders that are masks, not pictures: those of the examples, where they lie together.
        progress: called in this thread after every picture.

    Raises:
        InvalidSupport: nothing was taught. InvalidImage: a folder without pictures. OutputError: the folder belongs to
            something else, or cannot be written; what has been written stays, and a later run resumes.
    """
    options = options or BatchOptions()
    if options.batch_size < 0 or options.workers < 0:
        raise InvalidOption(f"batch size {options.batch_size}, workers {options.workers}: 0 chooses, or give 1 or more")
    segmenter.require_labels()
    sources = find_pictures(queries, out, masks)
    folder = OutputFolder(out, segmenter)
    report = BatchReport(folder.results)
    todo = [s for s in sources if options.overwrite or not folder.is_complete(s, options.overlays)]
    report.skipped = len(sources) - len(todo)
    run = _Run(segmenter, folder, options, report, len(sources), progress)
    try:
        run.all(todo)
    except BaseException:
        # What is finished stays in the journal, from which the next run resumes; results.json is a courtesy here.
        try:
            folder.finish(sources, report.errors)
        except OutputError as error:
            log.warning("results.json was not brought up to date: %s", error)
        raise
    folder.finish(sources, report.errors)
    return report


@dataclass(frozen=True)
class _Loaded:
    """A picture on its way to the model."""

    prepared: PreparedPicture
    small: Image.Image | None
    """For the overlay."""
    identity: list[int]
    """Of the file when it was read."""


class _Run:
    """One call of `segment_files`."""

    def __init__(
        self,
        segmenter: Segmenter,
        folder: OutputFolder,
        options: BatchOptions,
        report: BatchReport,
        total: int,
        progress: Progress | None,
    ) -> None:
        self.segmenter, self.folder, self.options, self.report = segmenter, folder, options, report
        self.total, self.progress = total, progress
        self.workers = options.workers or min(4, os.cpu_count() or 1)
        self.batch_size = options.batch_size or (1 if segmenter.method.device.type == "cpu" else 8)
        self.reading_large, self.writing_large = threading.Lock(), threading.Lock()

    def all(self, sources: Sequence[Path]) -> None:
        """Read, segment and write the pictures, in order."""
        readers, writers = ThreadPoolExecutor(self.workers), ThreadPoolExecutor(self.workers)
        writing: deque[tuple[Path, Future[Record]]] = deque()
        try:
            self._advance("")
            batch: list[tuple[Path, _Loaded]] = []
            for source, loaded in self._read_ahead(readers, sources):
                if isinstance(loaded, FewsegError):
                    self._failed(source, loaded)
                    continue
                batch.append((source, loaded))
                if len(batch) == self.batch_size:
                    self._segment(batch, writers, writing)
                    batch = []
            self._segment(batch, writers, writing)
            self._collect(writing, 0)
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown()  # finishes what has been segmented: journalled, so never done twice

    def _read_ahead(
        self, readers: ThreadPoolExecutor, sources: Sequence[Path]
    ) -> Iterator[tuple[Path, _Loaded | FewsegError]]:
        """Every source with what was read of it, in order; a bounded number of reads runs ahead."""
        waiting: deque[tuple[Path, Future[_Loaded]]] = deque()
        left = iter(sources)
        while True:
            while len(waiting) < 2 * self.workers + self.batch_size:
                source = next(left, None)
                if source is None:
                    break
                waiting.append((source, readers.submit(self._read, source)))
            if not waiting:
                return
            source, future = waiting.popleft()
            try:
                yield source, future.result()
            except FewsegError as error:
                yield source, error
            except Exception as error:  # whatever is wrong with one picture, the others are wanted
                log.warning("%s: unexpected error", source, exc_info=error)
                yield source, InvalidImage(f"{source} cannot be used ({one_line(error)}): save it again as PNG")

    def _read(self, source: Path) -> _Loaded:
        sizes = self.segmenter.input_sizes
        size = picture_size(source)
        identity = picture_identity(source)
        with self._one_at_a_time(size, self.reading_large):
            picture = open_for(source, sizes, at_least=OVERLAY_SIDE if self.options.overlays else 0)
            small = fitted(picture.image, OVERLAY_SIDE, enlarge=False) if self.options.overlays else None
            return _Loaded(prepare(picture, sizes), small, identity)

    def _one_at_a_time(self, size: tuple[int, int], lock: threading.Lock) -> AbstractContextManager[object]:
        return lock if size[0] * size[1] > LARGE else nullcontext()

    def _segment(
        self,
        batch: Sequence[tuple[Path, _Loaded]],
        writers: ThreadPoolExecutor,
        writing: deque[tuple[Path, Future[Record]]],
    ) -> None:
        if not batch:
            return
        coarse = self.segmenter.coarse_probabilities([loaded.prepared for _, loaded in batch])
        for (source, loaded), probabilities in zip(batch, coarse, strict=True):
            name = self.folder.name_for(source)
            writing.append((source, writers.submit(self._write, source, name, loaded, probabilities)))
        self._collect(writing, 2 * self.workers)

    def _write(self, source: Path, name: str, loaded: _Loaded, coarse: Tensor) -> Record:
        size = loaded.prepared.size
        with self._one_at_a_time(size, self.writing_large):
            prediction = self.segmenter.finish(coarse, size, probabilities=False)
            drawn = None
            if loaded.small is not None:
                drawn = overlay(loaded.small, self.segmenter.finish(coarse, loaded.small.size, probabilities=False))
            return self.folder.write(source, name, loaded.identity, prediction, drawn)

    def _collect(self, writing: deque[tuple[Path, Future[Record]]], allowed: int) -> None:
        """Wait until no more than `allowed` results, or those that are done anyway, are unwritten."""
        while writing and (len(writing) > allowed or writing[0][1].done()):
            source, future = writing.popleft()
            future.result()
            self.report.done += 1
            self._advance(source.name)

    def _failed(self, source: Path, error: FewsegError) -> None:
        log.info("%s: %s", source, error)
        self.report.errors.append((str(source), str(error)))
        self._advance(source.name)

    def _advance(self, last: str) -> None:
        if self.progress is not None:
            report = self.report
            self.progress(report.done + report.skipped + len(report.errors), self.total, last)
