"""What `fewseg segment` learns from, which way it segments, and what it writes besides masks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fewseg.batch import BatchOptions, BatchReport, segment_files
from fewseg.batch.tiled import segment_files_tiled
from fewseg.batch.video import segment_video
from fewseg.cli.common import progress_bar
from fewseg.core.errors import InvalidOption
from fewseg.core.progress import ProgressCallback
from fewseg.formats import SupportExample, Supports, check_folder, check_formats, read_supports, write_results
from fewseg.formats.mask_folders import require_apart
from fewseg.images.video import is_video, open_clip, read_frame
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiles import TileOptions

if TYPE_CHECKING:
    from fewseg.cli.segment import Options

_NEED_PICTURES: Final = frozenset({"yolo", "labelme", "overlays", "sheet"})


def check(options: Options) -> None:
    """Raise `InvalidOption` for choices that do not go together, before anything is read."""
    clips = [query for query in options.input if is_video(query)]
    if options.support is None and options.frame is None:
        raise InvalidOption("missing --support (or --frame and --mask for a video); see fewseg segment --help")
    if (options.frame is None) != (not options.mask):
        raise InvalidOption("--frame and --mask belong together: --frame 0 --mask cat=cat.png")
    if options.frame is not None and (len(clips) != 1 or len(options.input) != 1):
        raise InvalidOption("--frame is a frame of the video that is segmented: give one video after --input")
    if clips and len(clips) < len(options.input):
        raise InvalidOption(f"{clips[0]} is a video, other queries are not: segment them apart, into other folders")
    if clips and options.tile is not None:
        raise InvalidOption("--tile is for images: extract the frames of a video first (fewseg frame)")
    if options.engine != "threads" and (clips or options.tile is not None):
        raise InvalidOption(f"--engine {options.engine} takes neither videos nor --tile: leave it out")
    if options.frame_stride < 1 or (options.frame_stride > 1 and not clips):
        raise InvalidOption(f"--frame-stride {options.frame_stride}: give 1 or more, for a video")
    _check_idle(options, bool(clips))
    check_folder(options.out, check_formats(options.formats))
    _tiles(options)
    if options.support is not None:
        require_apart(options.support, options.out)
        if options.support.is_file() and options.support.resolve().parent == options.out.resolve():
            raise InvalidOption(f"output folder {options.out} holds the support file {options.support}: choose another")


def _check_idle(options: Options, video: bool) -> None:
    """Raise `InvalidOption` for choices that would do nothing."""
    if options.overlap is not None and options.tile is None:
        raise InvalidOption("--overlap is what tiles have in common: give --tile too, or leave it out")
    if options.support is None:
        for name, given in (("images", options.images), ("labels", options.labels), ("shots", options.shots)):
            if given:
                raise InvalidOption(f"--{name} chooses among the examples of --support: give --support too")
    if video or options.tile is not None:
        for name in ("workers", "model_threads"):
            if getattr(options, name):
                what = "videos" if video else "tiles"
                raise InvalidOption(f"--{name.replace('_', '-')} is for whole images, not for {what}: leave it out")
    if options.engine != "ray":
        for name, usual in (("ray_address", None), ("ray_workers", 0), ("ray_cpus", 0), ("ray_gpus", -1.0)):
            if getattr(options, name) != usual:
                raise InvalidOption(f"--{name.replace('_', '-')} is for --engine ray: give that too, or leave it out")


def _tiles(options: Options) -> TileOptions | None:
    if options.tile is None:
        return None
    return TileOptions(options.tile) if options.overlap is None else TileOptions(options.tile, options.overlap)


def read_examples(options: Options) -> Supports:
    """The examples that the options name: of `--support`, and of `--frame`."""
    found: list[SupportExample] = []
    kinds = []
    if options.support is not None:
        supports = read_supports(options.support, images=options.images, labels=options.labels, shots=options.shots)
        found += supports.examples
        kinds.append(supports.kind)
    if options.frame is not None:
        image = read_frame(options.input[0], options.frame)
        for given in options.mask:
            label, file = _named_mask(given)
            found.append(SupportExample(label, image, partial(Path, file), mask_file=file))
        kinds.append("a frame")
    return Supports(" and ".join(kinds), tuple(found))


def _named_mask(given: str) -> tuple[str, Path]:
    """Label and file of `LABEL=FILE`, or of a file that is named as its label."""
    label, equals, file = given.partition("=")
    if equals and not Path(given).exists():
        return label, Path(file)
    return Path(given).stem, Path(given)


def segment(segmenter: Segmenter, options: Options, batch: BatchOptions, supports: Supports) -> BatchReport:
    """Segment the queries in the way that fits them, with a progress bar."""
    with progress_bar("segmenting", rate="pictures/s") as advance:
        if is_video(options.input[0]):
            return _videos(segmenter, options, advance)
        tiles = _tiles(options)
        if tiles is not None:
            return segment_files_tiled(
                segmenter,
                options.input,
                options.out,
                tiles=tiles,
                overlays=batch.overlays,
                overwrite=batch.overwrite,
                batch_size=batch.batch_size,
                masks=supports.mask_files,
                progress=advance,
            )
        return segment_files(
            segmenter, options.input, options.out, options=batch, masks=supports.mask_files, progress=advance
        )


def _videos(segmenter: Segmenter, options: Options, advance: ProgressCallback) -> BatchReport:
    total: BatchReport | None = None
    for clip in options.input:
        open_clip(clip)  # all of them before the first is segmented
    for clip in options.input:
        report = segment_video(
            segmenter,
            clip,
            options.out,
            every=options.frame_stride,
            overlays=options.overlays,
            overwrite=options.overwrite,
            batch_size=options.batch_size,
            save_frames=bool(_NEED_PICTURES & set(options.formats)),
            errors=total.errors if total is not None else (),
            progress=advance,
        )
        if total is not None:
            report.done += total.done
            report.skipped += total.skipped
            report.seconds += total.seconds
        total = report
    assert total is not None
    return total


def export(out: Path, formats: Sequence[str], options: Options) -> None:
    """Write the results in the formats that `segment` itself does not write, with a progress bar."""
    wanted = [name for name in formats if name != "png"]
    if not is_video(options.input[0]):
        wanted = [name for name in wanted if name != "overlays"]  # drawn already, with scores
    if wanted:
        with progress_bar("exporting") as advance:
            report = write_results(out, wanted, options=options.export, progress=advance)
        if report.absent:
            told = f"{report.absent} of {report.absent + report.annotations} masks are not in {', '.join(wanted)}: "
            told += "judged absent; --export.absent writes them too, a lower --presence-threshold judges fewer so"
            print(told, file=sys.stderr)
