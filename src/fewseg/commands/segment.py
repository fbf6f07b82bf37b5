"""`fewseg segment`: from a support folder and pictures to masks, overlays and results.json."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from fewseg.batch import BatchOptions, BatchReport, segment_files
from fewseg.commands.common import progress_bar
from fewseg.errors import InvalidImage, InvalidOption
from fewseg.segmenter import Segmenter
from fewseg.support_folder import read_support, require_apart, teach_all


@dataclass(frozen=True)
class Options:
    """Teach with a folder of labelled pictures, segment others.

    The support folder holds one folder a label, each with pictures and their masks side by side: LABEL/name.jpg and
    LABEL/name.png (the mask of a picture name.png is name.mask.png or name_mask.png). A mask is as large as its
    picture, 0 where the label is not. Run the same command again to resume: finished pictures are skipped.
    """

    support: Path
    """Folder with one folder of pictures and masks a label."""
    query: tuple[Path, ...]
    """Pictures to segment, or folders of them (searched with their subfolders)."""
    out: Path
    """Where masks, overlays and results.json go."""
    checkpoint: str = "default"
    """The model: `default` (comes with fewseg), a file, a folder with model.safetensors, or a hub id user/name."""
    official: str | None = None
    """The checkpoint is the authors' release for this backbone: resnet50, resnet101 or swin_b."""
    method: str = "dcama"
    """Whose release that is: dcama, sccan or hsnet. Other checkpoints say it themselves."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    precision: str = "auto"
    """auto, float32, bfloat16 or float16."""
    flips: bool = False
    """Average with the mirrored picture: slower, a little better."""
    scales: tuple[float, ...] = (1.0,)
    """Average over input sizes, as factors of the model's own, e.g. 1 1.25."""
    threshold: float | None = None
    """Score from which a label counts as present; the model's own if not given."""
    overlays: bool = True
    """Also draw the masks on the pictures."""
    overwrite: bool = False
    """Do pictures again that are finished already."""
    batch_size: int = 0
    """Pictures that go through the model together; 0 chooses: 8 on a GPU, 1 else."""
    workers: int = 0
    """Threads that read and write pictures; 0 chooses."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Log what is done."""


def run(options: Options) -> int:
    """Segment; 0, or 2 when some pictures could not be read (the others are done)."""
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    if not options.query:
        raise InvalidOption("no pictures to segment: give files or folders after --query")
    require_apart(options.support, options.out)
    supports = read_support(options.support)  # before the model is loaded: a typing error shows at once
    segmenter = make_segmenter(options)
    teach_all(segmenter, supports)
    batch = BatchOptions(options.overlays, options.overwrite, options.batch_size, options.workers)
    with progress_bar("segmenting") as advance:
        masks = [mask for pairs in supports.values() for _, mask in pairs]
        report = segment_files(segmenter, options.query, options.out, options=batch, masks=masks, progress=advance)
    return conclude(report)


def make_segmenter(options: Options) -> Segmenter:
    """The untaught segmenter that the options describe."""
    chosen: dict[str, Any] = {
        "device": options.device,
        "precision": options.precision,
        "flips": options.flips,
        "scales": options.scales,
        "presence_threshold": options.threshold,
    }
    if options.official is None:
        return Segmenter.from_pretrained(options.checkpoint, **chosen)
    return Segmenter.from_official(options.checkpoint, options.official, options.method, **chosen)


def conclude(report: BatchReport) -> int:
    """Say what was done; raise `InvalidImage` with the unreadable files, if any."""
    finished = f"{report.done} segmented, {report.skipped} already finished"
    Console(stderr=True).print(f"{finished}: {report.results}", markup=False, highlight=False, soft_wrap=True)
    if report.errors:
        first = "; ".join(error for _, error in report.errors[:3])
        more = f"; and {len(report.errors) - 3} more" if len(report.errors) > 3 else ""
        total = report.done + report.skipped + len(report.errors)
        raise InvalidImage(f"{len(report.errors)} of {total} pictures failed, see {report.results}: {first}{more}")
    return 0
