"""Segmenting files: from images and folders of them to a folder of masks, overlays and results.json.

What happens to one image is in `fewseg.batch.steps`; an engine of `fewseg.batch` decides what happens where and
when: threads on this machine, or workers of a Ray cluster. Every engine writes the same bytes, and resumes what any
other left.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from fewseg.batch.find_images import find_images
from fewseg.batch.options import BatchOptions
from fewseg.batch.output_folder import FOLDERS, OutputFolder
from fewseg.batch.ray_engine import RayEngine, require_ray
from fewseg.batch.steps import ImageSteps, Outcome, Task
from fewseg.batch.threads import ThreadPlan, ThreadsEngine
from fewseg.core.errors import FewsegError, OutputError
from fewseg.core.files import remove_leftovers, write_text
from fewseg.core.progress import ProgressCallback
from fewseg.inference.segmenter import Segmenter

__all__ = ["BatchOptions", "BatchReport", "find_images", "segment_files"]

log = logging.getLogger(__name__)


@dataclass
class BatchReport:
    """What became of the images."""

    results: Path
    """The results.json."""
    done: int = 0
    """Images segmented now."""
    skipped: int = 0
    """Images that were finished already."""
    errors: list[tuple[str, str]] = field(default_factory=list)
    """Images that could not be used, and why."""
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
    progress: ProgressCallback | None = None,
) -> BatchReport:
    """Segment images into `out`: see `fewseg.batch.output_folder` for what is written there; times.json says how
    fast.

    Images that an earlier run finished with the same model, examples and options are skipped. One that cannot be
    read is reported in results.json and in the report, and does not stop the others.

    Args:
        segmenter: taught with at least one label.
        queries: files and folders.
        out: the output folder, made if missing.
        options: see `BatchOptions`.
        masks: files in the folders that are masks, not images: those of the examples, where they lie together.
        progress: called in this thread after every image.

    Raises:
        InvalidSupport: nothing was taught. InvalidImage: a folder without images. InvalidOption: an impossible
            option. OutputError: the folder belongs to something else, or cannot be written. WorkerError: Ray cannot
            be started or used. What has been written stays, and a later run resumes.
    """
    options = options or BatchOptions()
    options.check()
    segmenter.require_labels()
    if options.engine == "ray":
        require_ray()  # before anything is made
    sources = find_images(queries, out, masks)
    folder = OutputFolder(out, segmenter)
    report = BatchReport(folder.results)
    todo = [s for s in sources if options.overwrite or not folder.is_complete(s, options.overlays)]
    report.skipped = len(sources) - len(todo)
    # All are named beforehand: a name depends on nothing that happens later, whatever the engine.
    tasks = [Task(source, folder.name_for(source)) for source in todo]
    outcomes = _engine(ImageSteps(segmenter, folder, options.overlays), options, len(sources)).run(tasks)
    try:
        _follow(outcomes, report, len(sources), progress)
    except BaseException:
        # What is finished stays in the journal, from which the next run resumes; results.json is a courtesy here.
        try:
            folder.finish(sources, _in_order(report.errors, sources))
        except OutputError as error:
            log.warning("results.json was not brought up to date: %s", error)
        raise
    report.errors = _in_order(report.errors, sources)
    for part in FOLDERS:
        remove_leftovers(folder.root / part)
    folder.finish(sources, report.errors)
    if tasks:
        _write_times(folder.root / "times.json", report, options)
    return report


def _engine(work: ImageSteps, options: BatchOptions, images: int) -> ThreadsEngine | RayEngine:
    if options.engine == "ray":
        return RayEngine(work, options, images)
    return ThreadsEngine(work, ThreadPlan.of(options, work.segmenter.method.device, images))


def _follow(
    outcomes: Generator[Outcome, None, None], report: BatchReport, total: int, progress: ProgressCallback | None
) -> None:
    """Take what an engine gives, count it and tell of it."""
    if progress is not None:
        progress(report.skipped, total, "")
    start = time.monotonic()
    with closing(outcomes):
        for source, outcome in outcomes:
            if isinstance(outcome, FewsegError):
                log.info("%s: %s", source, outcome)
                report.errors.append((str(source), str(outcome)))
            else:
                report.done += 1
            report.seconds = time.monotonic() - start
            if progress is not None:
                progress(report.done + report.skipped + len(report.errors), total, source.name)


def _in_order(errors: Sequence[tuple[str, str]], sources: Sequence[Path]) -> list[tuple[str, str]]:
    """The errors as their images were named, whenever they came."""
    order = {str(source): i for i, source in enumerate(sources)}
    return sorted(errors, key=lambda error: order[error[0]])


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
