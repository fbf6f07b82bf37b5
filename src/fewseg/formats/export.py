"""Writing masks in other tools' formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from fewseg.formats.records import ExportOptions, ExportReport, MaskRecord

Progress = Callable[[int, int, str], None]


def export_masks(
    pictures: Iterable[MaskRecord],
    out: str | os.PathLike[str],
    formats: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    options: ExportOptions | None = None,
    total: int = 0,
    progress: Progress | None = None,
) -> ExportReport:
    """Write masks into the folder `out`, in every one of `formats` (see `FORMATS`), in one pass over the pictures.

    Memory is bounded by one picture's masks: give a generator. Every file is written atomically; those about all
    pictures (coco.json, data.yaml, sheets) take their names when all pictures have been written.

    Args:
        pictures: one record a picture, see `MaskRecord`; only the labels with a mask in it.
        out: the folder, made if missing.
        formats: names from `FORMATS`.
        labels: every label, in the order of class numbers and colours; in order of appearance if not given.
        options: see `ExportOptions`.
        total: number of pictures, for the progress; 0 for unknown.
        progress: called after every picture with (done, total, name).

    Raises:
        InvalidOption: an unknown format. InvalidMask: a mask that is not of its picture's size. InvalidImage: a picture
        that an overlay, a sheet or a copy needs is missing. OutputError: a file cannot be written.
    """
    raise NotImplementedError
