"""`fewseg segment`: from a support folder and images to masks, overlays and results.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fewseg.batch.options import BatchOptions
from fewseg.cli.options import LogOptions, ModelOptions
from fewseg.core.errors import InvalidImage, InvalidOption
from fewseg.formats.records import ExportOptions

if TYPE_CHECKING:
    from fewseg.batch.files import BatchReport


@dataclass(frozen=True, kw_only=True)
class Options(ModelOptions, BatchOptions, LogOptions):
    """Teach with a folder of labelled images, segment others.

    The support folder holds one folder a label, each with images and their masks side by side: LABEL/name.jpg and
    LABEL/name.png (the mask of an image name.png is name.mask.png or name_mask.png). A mask is as large as its
    image, 0 where the label is not; a box, points or a scribble in name.weak.json do instead. COCO JSON,
    labelme JSON and VOC folders are read as well. Run the same command again to resume: finished images are skipped.
    """

    input: tuple[Path, ...]
    """Images to segment, or folders of them (searched with their subfolders), or video files."""
    out: Path
    """Where masks, overlays and results.json go."""
    support: Path | None = None
    """The examples: a folder with one folder of images and masks a label, a COCO or labelme JSON file or a folder of
    them, or a VOC folder."""
    images: Path | None = None
    """Where the images of a JSON file are, if not beside it."""
    labels: tuple[str, ...] = ()
    """Teach these labels only; all if not given."""
    shots: int = 0
    """Teach at most so many examples a label, those that show enough of it; 0 for all."""
    frame: int | None = None
    """Teach with this frame of the video, counted from 0, and --mask (`fewseg frame` saves it for painting)."""
    mask: tuple[str, ...] = ()
    """Masks of that frame, LABEL=FILE ..."""
    formats: tuple[str, ...] = ("png",)
    """Formats of annotations to write besides: coco, coco-rle, yolo, labelme, geojson, sheet.
    Masks as png and overlays are always written."""
    export: ExportOptions = field(default_factory=ExportOptions)
    """How other formats are written."""
    tile: Literal["auto"] | int | None = None
    """Segment in tiles of this side in pixels, or auto (the model's input size): for images far larger than that."""
    overlap: float | None = None
    """Share of a tile's side that neighbours have in common; 0.25 if not given."""
    frame_stride: int = 1
    """Segment every so many-th frame of a video only."""
    compile: bool = False
    """Have torch.compile translate the model first: minutes, for a few percent on CPUs; only for many images."""


def run(options: Options) -> int:
    """Segment; 0, or 2 when some images could not be read (the others are done)."""
    if not options.input:
        raise InvalidOption("no images to segment: give files or folders after --input")

    from fewseg.cli import segment_parts
    from fewseg.cli.common import log_to_terminal, make_segmenter

    log_to_terminal(options.verbose)
    segment_parts.check(options)
    options.check()
    supports = segment_parts.read_examples(options)  # before the model is loaded: a typing error shows at once
    segmenter = make_segmenter(options, compile=options.compile)
    supports.teach(segmenter, options.tile)
    report = segment_parts.segment(segmenter, options, options, supports)
    segment_parts.export(options.out, options.formats, options)
    return _conclude(report)


def _conclude(report: BatchReport) -> int:
    """Say what was done; raise `InvalidImage` with the unreadable files, if any."""
    from rich.console import Console

    finished = f"{report.done} segmented, {report.skipped} already finished"
    if report.rate:
        finished += f", {report.rate:.3g} images a second"
    Console(stderr=True).print(f"{finished}: {report.results}", markup=False, highlight=False, soft_wrap=True)
    if report.errors:
        first = "; ".join(error for _, error in report.errors[:3])
        more = f"; and {len(report.errors) - 3} more" if len(report.errors) > 3 else ""
        total = report.done + report.skipped + len(report.errors)
        raise InvalidImage(f"{len(report.errors)} of {total} images failed, see {report.results}: {first}{more}")
    return 0
