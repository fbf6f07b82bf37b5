"""`fewseg export`: a model as ONNX or torch.export files, checked against torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fewseg.cli.options import FLAT, ImageSizeOptions, NamedModelOptions
from fewseg.core.errors import InvalidOption
from fewseg.export.options import GraphOptions

if TYPE_CHECKING:
    from fewseg.export.run import GraphReport
    from fewseg.inference.segmenter import Segmenter
    from fewseg.models.methods import FewShotMethod

APACHE = "Apache-2.0"
"""Licence of the embedded model."""


@dataclass(frozen=True, kw_only=True)
class Options(NamedModelOptions, ImageSizeOptions):
    """Write a model as files that run without fewseg and without torch: ONNX, or torch.export's own.

    query.onnx finds a label in an image, given its encoded examples, however many there are; support.onnx encodes an
    example; join.onnx, where a method has one, computes once what all examples of a label share. model.json describes
    them. Every file is compared with torch before it takes the place of an older one. examples/onnx_query.py runs them
    with onnxruntime, numpy and Pillow alone.
    """

    out: Path
    """Folder for the files."""
    image_size: int | None = None
    """Side of the model's square input in pixels, which the files fix; the model's own if not given."""
    files: Annotated[GraphOptions, FLAT] = dataclasses.field(default_factory=GraphOptions)
    support: Path | None = None
    """Examples to encode into supports.npz: a folder or file as `fewseg segment` takes them, or what Segmenter.save
    wrote."""
    labels: tuple[str, ...] = ()
    """Only these labels of --support."""
    segmenter: Path | None = None
    """What `fewseg teach` wrote, in place of model and examples: segmenter.onnx is all of it in one graph, an image in
    and every label's probabilities out, what was fitted to the examples included."""
    size: tuple[int, int] = (640, 480)
    """Width and height of the images that segmenter.onnx takes, which the file fixes; at most 1024."""
    shots: int = 0
    """At most so many examples a label; 0 for all."""
    accept_doubtful: bool = False
    """Do not question examples that look wrong, as in `fewseg segment`."""


def run(options: Options) -> int:
    """Write, compare, say what was written."""
    from fewseg.cli.common import progress_bar
    from fewseg.export.run import check_options, export_method
    from fewseg.export.supports import SUPPORTS, check_supports, save_supports
    from fewseg.formats.mask_folders import require_apart
    from fewseg.models.checkpoints import open_model

    chosen = dataclasses.replace(options.files, licence=_licence(options))
    check_options(chosen)
    if options.segmenter is not None:
        return _run_segmenter(options, chosen)
    if options.support is None and (options.labels or options.shots):
        raise InvalidOption("--labels and --shots choose among the examples of --support: give it too")
    if options.support is not None:
        require_apart(options.support, options.out)
    method = open_model(options.model, image_size=options.image_size)
    taught = _taught(options, method)
    if taught is not None:
        check_supports(taught)  # before minutes of exporting
    with progress_bar("exporting") as advance:
        report = export_method(method, options.out, chosen, progress=advance)
    if taught is not None:
        save_supports(taught, options.out / SUPPORTS)
    _say(options, report, taught)
    return 0


def _run_segmenter(options: Options, chosen: GraphOptions) -> int:
    """`run` with --segmenter."""
    from fewseg.cli.common import progress_bar
    from fewseg.export.segmenter import export_segmenter
    from fewseg.inference.segmenter import Segmenter

    for name in ("model", "image_size", "support", "labels", "shots"):
        if getattr(options, name) != getattr(type(options), name):
            raise InvalidOption(f"--{name.replace('_', '-')} is kept in {options.segmenter}: leave it out")
    assert options.segmenter is not None
    segmenter = Segmenter.load(options.segmenter, device="cpu", precision="float32")
    if chosen.licence == APACHE and (segmenter.source or {}).get("name") != "default":
        chosen = dataclasses.replace(chosen, licence=options.files.licence)
    with progress_bar("exporting") as advance:
        about = export_segmenter(segmenter, options.out, options.size, chosen, progress=advance)
    for name in about["files"]:
        print(
            f"{options.out / name}  {(options.out / name).stat().st_size / 1e6:.1f} MB: {', '.join(segmenter.labels)}"
        )
    print(options.out / "segmenter.json")
    worst = max(difference["probability"] for difference in about["differences"])
    print(f"largest difference from the segmenter: {worst:.1e} in a probability")
    return 0


def _licence(options: Options) -> str | None:
    licence = options.files.licence
    return APACHE if licence is None and options.model == "default" else licence


def _taught(options: Options, method: FewShotMethod) -> Segmenter | None:
    """The examples of --support, before anything is written."""
    from fewseg.formats.read import ENDINGS, read_supports
    from fewseg.inference.segmenter import Segmenter

    if options.support is None:
        return None
    if options.support.is_file() and options.support.suffix.lower() not in ENDINGS:
        if options.labels or options.shots:
            raise InvalidOption(f"{options.support} is taught already: leave out --labels and --shots")
        return Segmenter.load(options.support, method, device="cpu", precision="float32")
    supports = read_supports(options.support, labels=options.labels, shots=options.shots)
    segmenter = Segmenter(method, device="cpu", precision="float32")
    supports.teach(segmenter, check=not options.accept_doubtful)
    return segmenter


def _say(options: Options, report: GraphReport, taught: Segmenter | None) -> None:
    from fewseg.export.supports import SUPPORTS
    from fewseg.export.verify import FLIPPED, TOLERANCE

    for name, size in report.files.items():
        print(f"{options.out / name}  {size / 1e6:.1f} MB")
    print(options.out / "model.json")
    if taught is not None:
        shots = ", ".join(f"{label} ({taught.shots(label)})" for label in taught.labels)
        print(f"{options.out / SUPPORTS}  {shots}")
    flipped = max(difference.flipped for difference in report.differences)
    print(
        f"largest difference from torch, {', '.join(map(str, options.files.verify_shots))} shots: "
        f"{report.largest:.1e} in a probability, {flipped:.3%} of a mask's pixels "
        f"(allowed: {TOLERANCE:g} for all but {FLIPPED:.1%})"
    )
