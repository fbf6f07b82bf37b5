"""Segmenting files in tiles: one huge image after the other, into the same folder as `fewseg.batch` writes."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from fewseg.batch.files import BatchReport, find_images
from fewseg.batch.output_folder import OutputFolder, file_identity
from fewseg.core.errors import FewsegError, OutputError
from fewseg.core.progress import ProgressCallback
from fewseg.images import open_image, read_image_size
from fewseg.images.draw import overlay_of
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiles import TileOptions, segment_tiled

log = logging.getLogger(__name__)

OVERLAY_SIDE: Final = 4096
"""Overlays of larger images are drawn with this longest side."""


def segment_files_tiled(
    segmenter: Segmenter,
    queries: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    tiles: TileOptions | None = None,
    overlays: bool = True,
    overwrite: bool = False,
    batch_size: int = 0,
    masks: Iterable[Path] = (),
    progress: ProgressCallback | None = None,
) -> BatchReport:
    """`fewseg.batch.segment_files` in tiles: the same folder, names, resuming and report.

    Images pass one at a time; beside the decoded image, its masks and one row of tiles nothing of its size is
    held. Raises as `segment_files` does.
    """
    tiles = tiles or TileOptions()
    segmenter.require_labels()
    sources = find_images(queries, out, masks)
    folder = OutputFolder(out, segmenter, {"tile": tiles.side_for(segmenter), "overlap": tiles.overlap})
    report = BatchReport(folder.results)
    start = time.monotonic()
    try:
        for source in sources:
            if not overwrite and folder.is_complete(source, overlays):
                report.skipped += 1
            else:
                try:
                    _one(segmenter, folder, source, tiles, overlays, batch_size)
                    report.done += 1
                except OutputError:
                    raise
                except FewsegError as error:
                    log.info("%s: %s", source, error)
                    report.errors.append((str(source), str(error)))
            report.seconds = time.monotonic() - start
            if progress is not None:
                progress(report.done + report.skipped + len(report.errors), len(sources), source.name)
    finally:
        folder.finish(sources, report.errors)
    return report


def _one(
    segmenter: Segmenter, folder: OutputFolder, source: Path, tiles: TileOptions, overlays: bool, batch_size: int
) -> None:
    read_image_size(source)  # reports what is no image before anything is read
    identity = file_identity(source)
    name = folder.name_for(source)
    image = open_image(source).image
    found = segment_tiled(
        segmenter, image, tile=tiles.side, overlap=tiles.overlap, batch_size=batch_size, probabilities=False
    )
    drawn = overlay_of(image, found, OVERLAY_SIDE) if overlays else None
    del image
    folder.write(source, name, identity, found, drawn)
