"""`fewseg segment`: from a support folder and images to masks, overlays and results.json."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fewseg.batch.options import BatchOptions
from fewseg.cli.examples import ExampleOptions, load_segmenter, read_examples, set_kinds, taught_segmenter
from fewseg.cli.options import LogOptions, ModelOptions
from fewseg.core.errors import InvalidImage, InvalidOption
from fewseg.formats.records import ExportOptions, check_formats

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewseg.batch.files import BatchReport
    from fewseg.formats.examples import Supports
    from fewseg.inference.segmenter import Segmenter

_NEED_IMAGES: Final = frozenset({"yolo", "labelme", "overlays", "sheet"})
"""Formats that hold the images beside their annotations."""


@dataclass(frozen=True, kw_only=True)
class Options(ExampleOptions, ModelOptions, BatchOptions, LogOptions):
    """Teach with a folder of labelled images, segment others.

    The support folder holds one folder a label, each with images and their masks side by side: LABEL/name.jpg and
    LABEL/name.png (the mask of an image name.png is name.mask.png or name_mask.png). A mask is as large as its
    image, 0 where the label is not; a box, points or a scribble in name.weak.json do instead. images/ with masks/,
    COCO, labelme, YOLO, CVAT, Label Studio, VIA, VOC and Roboflow's exports are read as well, zipped too. Run the same
    command again to resume: finished images are skipped.
    """

    input: tuple[Path, ...]
    """Images to segment, or folders of them (searched with their subfolders), or video files."""
    out: Path
    """Where masks, overlays and results.json go."""
    segmenter: Path | None = None
    """What `fewseg teach` wrote, in place of examples and model."""
    frame: int | None = None
    """Teach with this frame of the video, counted from 0, and --mask (`fewseg frame` saves it for painting)."""
    mask: tuple[str, ...] = ()
    """Masks of that frame, LABEL=FILE ..."""
    formats: tuple[str, ...] = ("png",)
    """Formats of annotations to write besides: coco, coco-rle, yolo, labelme, geojson, sheet.
    Masks as png and overlays are always written."""
    export: ExportOptions = field(default_factory=ExportOptions)
    """How other formats are written."""
    compile: bool = False
    """Have torch.compile translate the model first: minutes, for a few percent on CPUs; only for many images."""

    @property
    def holds_videos(self) -> bool:
        """Whether there are videos among the queries."""
        from fewseg.images.video import is_video

        return any(map(is_video, self.input))


def run(options: Options) -> int:
    """Segment; 0, or 2 when some images could not be read (the others are done)."""
    if not options.input:
        raise InvalidOption("no images to segment: give files or folders after --input")

    from fewseg.batch.files import segment_files
    from fewseg.cli.common import log_to_terminal, progress_bar
    from fewseg.formats.examples_sheet import draw_turned
    from fewseg.images.depth import set_range

    log_to_terminal(options.verbose)
    set_range(options.range)
    options.check()
    options.check_for(options.input)
    check_examples(options)
    mask_files: Sequence[Path] = ()
    if options.segmenter is not None:
        segmenter = load_segmenter(options.segmenter, options, compile=options.compile)
        set_kinds(segmenter, options.kind)
    else:
        supports = read_all_examples(options)  # before the model is loaded: a typing error shows at once
        segmenter = taught_segmenter(
            options, options, supports, options.tile, apart=options.out, compile=options.compile
        )
        draw_turned(supports.examples, options.out / "examples.jpg")
        mask_files = supports.mask_files
    if options.holds_videos and _NEED_IMAGES & set(options.formats):
        options = replace(options, save_frames=True)
    with progress_bar("segmenting", rate="images/s") as advance:
        report = segment_files(
            segmenter,
            options.input,
            options.out,
            options=options,
            masks=mask_files,
            absent=options.export.absent,
            progress=advance,
        )
    export(options)
    if options.objects:
        _tell_objects(segmenter, report)
    return _conclude(report)


def check_examples(options: Options) -> None:
    """Raise `InvalidOption` for examples, formats and folders that do not go together, before anything is read."""
    from fewseg.formats.manifest import check_folder
    from fewseg.formats.mask_folders import require_apart

    if options.support is None and options.frame is None and options.segmenter is None:
        raise InvalidOption(
            "missing --support (or --frame and --mask for a video, or --segmenter); see fewseg segment --help"
        )
    if options.segmenter is not None and (options.support is not None or options.frame is not None):
        raise InvalidOption(
            "--segmenter holds what was taught: leave out --support, --frame and --mask, or leave it out"
        )
    if options.segmenter is not None and (options.adapt != "auto" or options.refused):
        given = "--refused" if options.refused else "--adapt"
        raise InvalidOption(f"{given} is for teaching, which --segmenter leaves out: give it to fewseg teach")
    if (options.frame is None) != (not options.mask):
        raise InvalidOption("--frame and --mask belong together: --frame 0 --mask cat=cat.png")
    if options.frame is not None and (not options.holds_videos or len(options.input) != 1):
        raise InvalidOption("--frame is a frame of the video that is segmented: give one video after --input")
    check_folder(options.out, check_formats(options.formats))
    options.check_examples(options, tiled=options.tile is not None)
    if options.support is None:
        return
    require_apart(options.support, options.out)
    if options.support.is_file() and options.support.resolve().parent == options.out.resolve():
        raise InvalidOption(f"output folder {options.out} holds the support file {options.support}: choose another")


def read_all_examples(options: Options) -> Supports:
    """The examples that the options name: of `--support`, and of `--frame`."""
    from fewseg.formats.examples import SupportExample, Supports
    from fewseg.images.video import read_frame

    supports = read_examples(options) if options.support is not None else Supports("", ())
    if options.frame is None:
        return supports
    image = read_frame(options.input[0], options.frame)
    masks = map(_named_mask, options.mask)
    own = [SupportExample(label, image, partial(Path, file), mask_file=file) for label, file in masks]
    kind = " and ".join(filter(None, (supports.kind, "a frame")))
    return Supports(kind, (*supports.examples, *own))


def _named_mask(given: str) -> tuple[str, Path]:
    """Label and file of `LABEL=FILE`, or of a file that is named as its label."""
    label, equals, file = given.partition("=")
    if equals and not Path(given).exists():
        return label, Path(file)
    return Path(given).stem, Path(given)


def export(options: Options) -> None:
    """Write the results in the formats that `segment_files` itself does not write, with a progress bar."""
    from fewseg.cli.common import progress_bar
    from fewseg.formats.convert import write_results

    drawn = {"png"} if options.holds_videos else {"png", "overlays"}  # frames have no overlays of their own
    wanted = [name for name in options.formats if name not in drawn]
    if not wanted:
        return
    with progress_bar("exporting") as advance:
        write_results(options.out, wanted, options=options.export, progress=advance)


def _tell_objects(segmenter: Segmenter, report: BatchReport) -> None:
    """Say how many objects there are, and which labels have none to count."""
    stuff = [label for label in segmenter.labels if segmenter.kind(label) == "stuff"]
    if report.counts:
        counts = ", ".join(f"{count} {label}" for label, count in report.counts.items())
        print(f"objects: {counts}: {report.results.with_name('objects.csv')}", file=sys.stderr)
    if stuff:
        told = f"{', '.join(stuff)}: stuff, which has no single objects; --kind {stuff[0]}=thing counts its pieces"
        print(told, file=sys.stderr)


def _conclude(report: BatchReport) -> int:
    """Say what was done; raise `InvalidImage` with the unreadable files, if any."""
    from rich.console import Console

    if report.absent:
        told = f"{report.absent} masks are left out, empty in every format, for their label is judged absent from the "
        told += "image: --export.absent writes them too, a lower --presence-threshold judges fewer so"
        print(told, file=sys.stderr)
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
