"""`fewseg export`: a model as ONNX or torch.export files, checked against torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fewseg.cli.common import load_model, progress_bar
from fewseg.core.errors import InvalidOption
from fewseg.export import ExportOptions, ExportReport, check_supports, export_method, save_supports
from fewseg.export.run import check_options
from fewseg.export.supports import SUPPORTS
from fewseg.export.verify import FLIPPED, TOLERANCE
from fewseg.export.write import Format
from fewseg.formats import read_supports
from fewseg.formats.read_folder import require_apart
from fewseg.inference.segmenter import Segmenter
from fewseg.models.methods import FewShotMethod

APACHE = "Apache-2.0"
"""Licence of the embedded model."""


@dataclass(frozen=True)
class Options:
    """Write a model as files that run without fewseg and without torch: ONNX, or torch.export's own.

    query.onnx finds a label in an image, given its encoded examples, however many there are; support.onnx encodes an
    example; join.onnx, where a method has one, computes once what all examples of a label share. model.json describes
    them. Every file is compared with torch before it takes the place of an older one. examples/onnx_query.py runs them
    with onnxruntime, numpy and Pillow alone.
    """

    out: Path
    """Folder for the files."""
    checkpoint: str = "default"
    """Model: `default` (the embedded one), a file, a folder or a hub id."""
    official: str | None = None
    """Backbone of an authors' release that --checkpoint names: resnet50, resnet101, swin_b."""
    method: str = "dcama"
    """Method of that release: dcama, sccan or hsnet."""
    image_size: int | None = None
    """Side of the square input, pixels; the model's own if not given. It is fixed in the files."""
    formats: tuple[Format, ...] = ("onnx",)
    """Files to write: onnx, pt2 (torch.export)."""
    support: Path | None = None
    """Examples to encode into supports.npz: a folder or file as `fewseg segment` takes them, or what Segmenter.save
    wrote."""
    labels: tuple[str, ...] = ()
    """Only these labels of --support."""
    shots: int = 0
    """At most so many examples a label; 0 for all."""
    query_only: bool = False
    """Leave out the support side: examples are then encoded by fewseg alone."""
    opset: int = 18
    """ONNX operator set, 18 to 23; the oldest is read by the most runtimes."""
    licence: str | None = None
    """The weights' licence, written into the files; what the checkpoint says if not given."""
    verify_shots: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT [INT ...]")] = (1, 3, 5)
    """Numbers of examples with which the files are compared with torch."""


def run(options: Options) -> int:
    """Write, compare, say what was written."""
    chosen = ExportOptions(options.formats, options.opset, options.query_only, _licence(options), options.verify_shots)
    check_options(chosen)
    if options.support is None and (options.labels or options.shots):
        raise InvalidOption("--labels and --shots choose among the examples of --support: give it too")
    if options.support is not None:
        require_apart(options.support, options.out)
    method = load_model(options.checkpoint, options.official, options.method, options.image_size)
    taught = _taught(options, method)
    if taught is not None:
        check_supports(taught)  # before minutes of exporting
    with progress_bar("exporting") as advance:
        report = export_method(method, options.out, chosen, progress=advance)
    if taught is not None:
        save_supports(taught, options.out / SUPPORTS)
    _say(options, report, taught)
    return 0


def _licence(options: Options) -> str | None:
    if options.licence is None and options.checkpoint == "default":
        return APACHE
    return options.licence


def _taught(options: Options, method: FewShotMethod) -> Segmenter | None:
    """The examples of --support, before anything is written."""
    if options.support is None:
        return None
    if options.support.is_file() and options.support.suffix.lower() != ".json":
        if options.labels or options.shots:
            raise InvalidOption(f"{options.support} is taught already: leave out --labels and --shots")
        return Segmenter.load(options.support, method, device="cpu", precision="float32")
    supports = read_supports(options.support, labels=options.labels, shots=options.shots)
    segmenter = Segmenter(method, device="cpu", precision="float32")
    supports.teach(segmenter)
    return segmenter


def _say(options: Options, report: ExportReport, taught: Segmenter | None) -> None:
    for name, size in report.files.items():
        print(f"{options.out / name}  {size / 1e6:.1f} MB")
    print(options.out / "model.json")
    if taught is not None:
        shots = ", ".join(f"{label} ({taught.shots(label)})" for label in taught.labels)
        print(f"{options.out / SUPPORTS}  {shots}")
    flipped = max(difference.flipped for difference in report.differences)
    print(
        f"largest difference from torch, {', '.join(map(str, options.verify_shots))} shots: "
        f"{report.largest:.1e} in a probability, {flipped:.3%} of a mask's pixels "
        f"(allowed: {TOLERANCE:g} for all but {FLIPPED:.1%})"
    )
