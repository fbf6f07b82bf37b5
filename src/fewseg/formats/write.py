"""Writing masks in other tools' formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from fewseg.core.errors import InvalidOption
from fewseg.core.files import make_folder
from fewseg.core.progress import ProgressCallback
from fewseg.formats.manifest import check_folder
from fewseg.formats.page import Labels, Page, Writer
from fewseg.formats.records import ExportOptions, ExportReport, MaskRecord, check_formats
from fewseg.formats.write_coco import CocoWriter
from fewseg.formats.write_images import OverlayWriter, PngWriter, SheetWriter
from fewseg.formats.write_polygons import GeoJsonWriter, LabelmeWriter, YoloWriter


def export_masks(
    images: Iterable[MaskRecord],
    out: str | os.PathLike[str],
    formats: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    options: ExportOptions | None = None,
    total: int = 0,
    progress: ProgressCallback | None = None,
) -> ExportReport:
    """Write masks into the folder `out`, in every one of `formats` (see `FORMATS`), in one pass over the images.

    Memory is bounded by one image's masks: give a generator. Every file is written atomically; those about all
    images (coco.json, data.yaml) take their names when all images have been written.

    Args:
        images: one record an image, see `MaskRecord`; only the labels with a mask in it.
        out: the folder, made if missing.
        formats: names from `FORMATS`.
        labels: every label, in the order of class numbers and colours; in order of appearance if not given.
        options: see `ExportOptions`.
        total: number of images, for the progress; 0 for unknown.
        progress: called after every image with (done, total, name).

    Raises:
        InvalidOption: an unknown format, or two images of one name. InvalidMask: a mask that is not of its image's
            size. InvalidImage: an image that an overlay, a sheet or a copy needs is missing. OutputError: a file
            cannot be written, or one about all images is there and somebody's own. Files of single images that
            were corrected by hand stay, with a line in the log.
    """
    chosen = check_formats(tuple(formats))
    options = options or ExportOptions()
    known = Labels(tuple(labels or ()))
    check_folder(Path(out), chosen)
    folder = make_folder(out)
    names: set[str] = set()
    files = annotations = absent = 0
    with ExitStack() as stack:
        writers = []
        for name in chosen:
            writers.append(_writer(name, folder, known))
            stack.callback(writers[-1].close)
        for record in images:
            if record.name.casefold() in names:
                raise InvalidOption(f"two images are called {record.name!r}: give every image a name of its own")
            names.add(record.name.casefold())
            page = Page(record, known, options)
            files += sum(writer.add(page) for writer in writers)
            annotations += len(page.masks)
            absent += page.absent
            if progress is not None:
                progress(len(names), total, record.name)
        files += sum(writer.finish() for writer in writers)
    return ExportReport(len(names), files, annotations, absent)


def _writer(name: str, out: Path, labels: Labels) -> Writer:
    if name in ("coco", "coco-rle"):
        return CocoWriter(out, labels, run_lengths=name == "coco-rle")
    if name == "yolo":
        return YoloWriter(out, labels)
    simple: dict[str, Callable[[Path], Writer]] = {
        "png": PngWriter,
        "labelme": LabelmeWriter,
        "geojson": GeoJsonWriter,
        "overlays": OverlayWriter,
        "sheet": SheetWriter,
    }
    return simple[name](out)
