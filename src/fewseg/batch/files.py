"""Segmenting files: from images, folders of them and videos to a folder of masks, overlays and results.json.

What happens to one image is in `fewseg.batch.steps`; where images come from, in `fewseg.batch.sources`; an engine
decides what happens where and when: threads on this machine, or workers of a Ray cluster. Every engine writes the same
bytes, and resumes what any other left.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fewseg.batch.earlier import EARLIER, FOLDERS
from fewseg.batch.find_images import find_images
from fewseg.batch.options import BatchOptions
from fewseg.batch.output_folder import OutputFolder
from fewseg.batch.pages import with_pages
from fewseg.batch.ray_engine import require_ray
from fewseg.batch.run import Run, Source
from fewseg.batch.sources import Queries
from fewseg.core.errors import FewsegError, OutputError
from fewseg.core.files import remove_leftovers, write_text
from fewseg.core.locks import FolderLock
from fewseg.core.progress import ProgressCallback
from fewseg.images.depth import get_range
from fewseg.inference.segmenter import Segmenter

__all__ = ["BatchOptions", "BatchReport", "find_images", "segment_files"]

log = logging.getLogger(__name__)


@dataclass
class BatchReport:
    """What became of the images and frames of a run."""

    results: Path
    """The results.json."""
    done: int = 0
    """Images segmented now."""
    skipped: int = 0
    """Images that were finished already."""
    absent: int = 0
    """Masks that were left out of all images in results.json, as their label is judged absent there."""
    counts: dict[str, int] = field(default_factory=dict)
    """Objects of each label in all images of results.json; labels of stuff are left out."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """Images that could not be used, and videos with parts that could not, and why."""
    seconds: float = 0.0
    """From the first image's reading to the last one's writing."""

    @property
    def rate(self) -> float:
        """Images segmented a second; 0 where none was."""
        return self.done / self.seconds if self.done and self.seconds else 0.0


def segment_files(
    segmenter: Segmenter,
    queries: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    options: BatchOptions | None = None,
    masks: Iterable[Path] = (),
    absent: bool = False,
    progress: ProgressCallback | None = None,
) -> BatchReport:
    """Segment images and videos into `out`: see `fewseg.batch.output_folder` and `fewseg.batch.video` for what is
    written there; times.json says how fast.

    Images and frames that an earlier run finished with the same model, examples and options are skipped. An image that
    cannot be read is reported in results.json and in the report, and does not stop the others. The call goes by what
    was taught when it began.

    Args:
        segmenter: taught with at least one label.
        queries: image files, folders of them, and video files.
        out: the output folder, made if missing.
        options: see `BatchOptions`.
        masks: files in the folders that are masks, not images: those of the examples, where they lie together.
        absent: also write masks of labels that are judged absent; they are left empty otherwise.
        progress: called in this thread after every image.

    Raises:
        InvalidSupport: nothing was taught. InvalidImage: a folder without images, or a video that cannot be read.
            InvalidOption: an impossible option. OutputError: the folder belongs to something else, another process
            writes into it, or it cannot be written. WorkerError: Ray cannot be started or used. What has been written
            stays, and a later run resumes.
    """
    options = options or BatchOptions()
    options.check()
    options.check_for(queries)
    now = segmenter.with_supports(segmenter.supports)  # other threads may teach meanwhile
    now.require_labels()
    if options.engine == "ray":
        require_ray()  # before anything is made
    named, variant = Queries.find(queries, out, masks), _variant(now, options)
    with FolderLock(out):
        if options.pages:
            named = replace(named, files=with_pages(named.files, Path(out)))
        run = Run(now, OutputFolder(out, now, variant, absent=absent, objects=options.objects), options)
        return _segment(run, named.sources(run), progress)


def _variant(segmenter: Segmenter, options: BatchOptions) -> dict[str, Any]:
    """What results depend on, beside the segmenter and what is written."""
    tiles = options.tiles
    variant: dict[str, Any] = {} if tiles is None else {"tile": tiles.side_for(segmenter), "overlap": tiles.overlap}
    if (values := get_range()) is not None:
        variant["range"] = list(values)
    return variant


def _segment(run: Run, sources: Sequence[Source], progress: ProgressCallback | None) -> BatchReport:
    folder = run.folder
    report = BatchReport(folder.results)
    try:
        _follow(sources, report, progress)
    except BaseException:
        # What is finished stays in the journal, from which the next run resumes; results.json is a courtesy here.
        try:
            _conclude(folder, sources, report, run.options.pixel_size)
        except OutputError as error:
            log.warning("results.json was not brought up to date: %s", error)
        raise
    for part in FOLDERS:
        remove_leftovers(folder.root / part)
    _conclude(folder, sources, report, run.options.pixel_size)
    if moved := folder.set_aside():
        there = folder.root / EARLIER
        log.warning("%d files of earlier runs, with other labels, examples or images, were moved to %s", moved, there)
    if report.done or report.errors:
        _write_times(folder.root / "times.json", report, run.options)
    return report


def _follow(sources: Sequence[Source], report: BatchReport, progress: ProgressCallback | None) -> None:
    """Take what the sources give, count it and tell of it."""
    report.skipped = sum(source.skipped for source in sources)
    total = sum(source.total for source in sources)
    if progress is not None:
        progress(report.skipped, total, "")
    start = time.monotonic()
    for source in sources:
        with closing(source.outcomes()) as outcomes:
            for key, outcome in outcomes:
                if isinstance(outcome, FewsegError):
                    log.info("%s: %s", key, outcome)
                    report.errors.append((str(key), str(outcome)))
                elif outcome is None:
                    report.skipped += 1
                else:
                    report.done += 1
                report.seconds = time.monotonic() - start
                if progress is not None:
                    done = report.done + report.skipped + len(report.errors)
                    progress(done, max(total, done), key.name)


def _conclude(folder: OutputFolder, sources: Sequence[Source], report: BatchReport, pixel_size: float | None) -> None:
    """Write results.json, with images and errors in the order in which the images were named."""
    keys = [key for source in sources for key in source.keys]
    order = {str(key): i for i, key in enumerate(keys)}
    report.errors.sort(key=lambda error: order.get(error[0], len(order)))
    report.counts = folder.finish(keys, report.errors, pixel_size)
    if not folder.absent:
        labels = (label for record in folder.entries for label in record["labels"].values())
        report.absent = sum(not label["present"] and label["area"] > 0 for label in labels)


def _write_times(path: Path, report: BatchReport, options: BatchOptions) -> None:
    """How long it took: apart from results.json, which is the same file in every run of the same command."""
    content = {
        "engine": options.engine,
        "pictures": report.done,
        "failed": len(report.errors),
        "already_finished": report.skipped,
        "seconds": round(report.seconds, 3),
        "pictures_per_second": round(report.rate, 3),
    }
    write_text(path, json.dumps(content, indent=1) + "\n")
