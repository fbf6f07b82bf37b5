"""Masks written in the formats of other tools."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from fewseg.core.errors import InvalidOption
from fewseg.core.files import make_folder
from fewseg.core.progress import ProgressCallback, silent
from fewseg.formats.coco import CocoWriter
from fewseg.formats.geojson import GeoJsonWriter
from fewseg.formats.image_files import OverlayWriter, PngWriter, SheetWriter
from fewseg.formats.labelme import LabelmeWriter
from fewseg.formats.manifest import check_folder
from fewseg.formats.records import ExportOptions, ExportReport, MaskRecord, check_formats
from fewseg.formats.writer import LabelNumbers, MaskedImage, Writer
from fewseg.formats.yolo import YoloWriter
from fewseg.images.draw import Colour


def export_masks(
    images: Iterable[MaskRecord],
    out: str | os.PathLike[str],
    formats: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    colours: Mapping[str, Colour] | None = None,
    options: ExportOptions | None = None,
    total: int = 0,
    progress: ProgressCallback = silent,
) -> ExportReport:
    """Write masks into the folder `out`, in every one of `formats` (see `FORMATS`), in one pass over the images.

    Memory is bounded by one image's masks: give a generator. Files are written atomically, those about all images last.
    Files of single images that were corrected by hand stay, with a line in the log.

    Args:
        images: one record an image, see `MaskRecord`; only the labels with a mask in it.
        out: the folder, made if missing.
        formats: names from `FORMATS`.
        labels: every label, in the order of numbers and colours; in order of appearance if not given.
        colours: label to its colour (r, g, b) in overlays, sheets and GeoJSON; by number where it has none.
        options: see `ExportOptions`.
        total: number of images, for the progress; 0 for unknown.
        progress: called after every image with (done, total, name).

    Raises:
        InvalidOption: an unknown format, or two images of one name. InvalidMask: a mask of another size than its image.
        InvalidImage: an image that an overlay, a sheet or a copy needs is missing. OutputError: a file cannot be
            written, or one about all images was not written by fewseg.
    """
    formats, numbers = check_formats(tuple(formats)), LabelNumbers(tuple(labels or ()), colours)
    check_folder(Path(out), formats)
    folder = make_folder(out)
    files = annotations = absent = done = 0
    with ExitStack() as stack:
        writers = [stack.enter_context(closing(_writer(name, folder, numbers))) for name in formats]
        for done, record in enumerate(_of_different_names(images), 1):
            image = MaskedImage(record, numbers, options or ExportOptions())
            files += sum(writer.add(image) for writer in writers)
            annotations += len(image.masks)
            absent += image.absent
            progress(done, total, record.name)
        files += sum(writer.finish() for writer in writers)
    return ExportReport(done, files, annotations, absent)


def _of_different_names(images: Iterable[MaskRecord]) -> Iterator[MaskRecord]:
    names: set[str] = set()
    for record in images:
        if record.name.casefold() in names:
            raise InvalidOption(f"two images are called {record.name!r}: give every image a name of its own")
        names.add(record.name.casefold())
        yield record


def _writer(name: str, out: Path, labels: LabelNumbers) -> Writer:
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
