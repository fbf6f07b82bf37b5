"""`fewseg segment`: from a support folder and images to masks, overlays and results.json."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from fewseg.batch import BatchOptions, BatchReport
from fewseg.batch.options import Engine
from fewseg.cli import segment_parts
from fewseg.cli.common import make_segmenter
from fewseg.core.errors import InvalidImage, InvalidOption
from fewseg.formats import ExportOptions


@dataclass(frozen=True)
class Options:
    """Teach with a folder of labelled images, segment others.

    The support folder holds one folder a label, each with images and their masks side by side: LABEL/name.jpg and
    LABEL/name.png (the mask of an image name.png is name.mask.png or name_mask.png). A mask is as large as its
    image, 0 where the label is not; a box, points or a scribble in name.weak.json do instead. COCO JSON,
    labelme JSON and VOC folders are read as well. Run the same command again to resume: finished images are skipped.
    """

    query: tuple[Path, ...]
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
    """Also write the results as coco, coco-rle, yolo, labelme, geojson, sheet; png and overlays are always written."""
    export: ExportOptions = field(default_factory=ExportOptions)
    """How other formats are written."""
    tile: Literal["auto"] | int | None = None
    """Segment in tiles of this side in pixels, or auto (the model's input size): for images far larger than that."""
    overlap: float | None = None
    """Share of a tile's side that neighbours have in common; 0.25 if not given."""
    every: int = 1
    """Segment every so many-th frame of a video only."""
    checkpoint: str = "default"
    """The model: `default` (comes with fewseg), a file, a folder with model.safetensors, or a hub id user/name."""
    official: str | None = None
    """The checkpoint is the authors' release for this backbone: resnet50, resnet101 or swin_b."""
    method: str = "dcama"
    """Whose release that is: dcama, sccan or hsnet. Other checkpoints say it themselves."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16. auto is bfloat16 where processor and model are made for it."""
    compile: bool = False
    """Have torch.compile translate the model first: minutes, for a few percent on CPUs; only for many images."""
    flips: bool = False
    """Average with the mirrored image: slower, a little better."""
    scales: tuple[float, ...] = (1.0,)
    """Average over input sizes, as factors of the model's own, e.g. 1 1.25."""
    threshold: float | None = None
    """Score from which a label counts as present; the model's own if not given."""
    overlays: bool = True
    """Also draw the masks on the images."""
    overwrite: bool = False
    """Do images again that are finished already."""
    batch_size: int = 0
    """Images that go through the model together; 0 chooses: 8 on a GPU, 1 else."""
    workers: int = 0
    """Threads that read and write images; 0 chooses."""
    model_threads: int = 0
    """Threads of one run of the model on a CPU; with 1, as many images as there are cores at a time. 0 chooses: 1,
    with few images all cores."""
    engine: Engine = "threads"
    """threads on this machine, or ray on one machine or many."""
    ray_address: str | None = None
    """A running Ray cluster: auto, host:port; starts Ray on this machine if not given."""
    ray_workers: int = 0
    """Worker processes of Ray, each with a model; 0: as many as the cluster holds."""
    ray_cpus: int = 0
    """Cores of each Ray worker; 0 chooses: all that torch uses here, or 4 beside a GPU."""
    ray_gpus: float = -1.0
    """GPUs of each Ray worker, e.g. 1, or 0.5 for two workers a GPU; -1 chooses: 1 if the device is a GPU, else 0."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Log what is done."""


def run(options: Options) -> int:
    """Segment; 0, or 2 when some images could not be read (the others are done)."""
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    if not options.query:
        raise InvalidOption("no images to segment: give files or folders after --query")
    segment_parts.check(options)
    batch = BatchOptions(**{field.name: getattr(options, field.name) for field in fields(BatchOptions)})
    batch.check()
    supports = segment_parts.read_examples(options)  # before the model is loaded: a typing error shows at once
    segmenter = make_segmenter(options, compile=options.compile)
    supports.teach(segmenter, options.tile)
    report = segment_parts.segment(segmenter, options, batch, supports)
    segment_parts.export(options.out, options.formats, options)
    return _conclude(report)


def _conclude(report: BatchReport) -> int:
    """Say what was done; raise `InvalidImage` with the unreadable files, if any."""
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
