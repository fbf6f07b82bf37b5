"""Options about examples that `fewseg segment` and `fewseg teach` share, and the segmenter that they teach."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from fewseg.cli.options import ModelOptions
from fewseg.core.errors import InvalidOption
from fewseg.core.objects import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fewseg.formats.examples import Supports
    from fewseg.inference.segmenter import Segmenter
    from fewseg.inference.tiling import Tile

Adapt: TypeAlias = Literal["auto", "on", "off"]


@dataclass(frozen=True, kw_only=True)
class ExampleOptions:
    """The examples, and what is fitted to them."""

    support: Path | None = None
    """The examples: a folder with one folder of images and masks a label, or a file or folder of another tool, or its
    zip; the format is found out."""
    images: Path | None = None
    """Where the images of a JSON file are, if not beside it."""
    labels: tuple[str, ...] = ()
    """Teach these labels only; all if not given."""
    shots: int = 0
    """Teach at most so many examples a label, those that show enough of it; 0 for all."""
    split: str = ""
    """Teach this part of a data set only: train, val, test; all if not given."""
    strict: bool = False
    """End where an example cannot be used (an image is missing, a mask is damaged); by default it is left out."""
    accept_doubtful: bool = False
    """Do not question examples that look wrong: masks that cover the whole image or are inverted, labels that are
    hardly different or called train, valid, test."""
    adapt: Adapt = "auto"
    """Fit to a label's own examples, in about half a minute: auto where there are 5 or more and the fit predicts
    examples better that it has not seen, on wherever there are 2 or more, off never."""
    kind: tuple[str, ...] = ()
    """Whether labels are things, which are counted one by one, or stuff (sky, road, ink), as LABEL=thing or
    LABEL=stuff; what the examples look like, if not given."""
    refused: tuple[Path, ...] = ()
    """Images, or folders of them, that show none of the labels: what counts as present is chosen so that they do not,
    and that every example of a label with three or more is found with the help of the others."""

    def check_examples(self, model: ModelOptions, *, tiled: bool = False) -> None:
        """Raise `InvalidOption` for options that do not go together, before anything is read."""
        if self.refused and (model.presence_threshold is not None or tiled):
            other = "--tile" if model.presence_threshold is None else "--presence-threshold"
            raise InvalidOption(
                f"--refused chooses the threshold of whole images, which {other} rules out: leave out one"
            )
        for name in ("images", "labels", "shots", "split", "strict"):
            if self.support is None and getattr(self, name):
                raise InvalidOption(f"--{name} chooses among the examples of --support: give --support too")


def read_examples(options: ExampleOptions) -> Supports:
    """The examples of `--support`; raises `InvalidSupport` and the like."""
    from fewseg.formats.read import read_supports

    assert options.support is not None
    chosen = {name: getattr(options, name) for name in ("images", "labels", "shots", "split", "strict")}
    return read_supports(options.support, **chosen)


def taught_segmenter(
    options: ExampleOptions,
    model: ModelOptions,
    supports: Supports,
    tile: Tile | None = None,
    *,
    apart: Path,
    compile: bool = False,
    curve: bool = False,
) -> Segmenter:
    """A segmenter that was taught, adapted and given presence thresholds as the options say.

    `tile` is the scale of tiles, if there are any; refused images are not looked for in the folder `apart`.
    """
    from fewseg.batch.find_images import find_images
    from fewseg.cli.common import make_segmenter

    segmenter = make_segmenter(model, compile=compile)
    supports.teach(segmenter, tile, check=not options.accept_doubtful)
    set_kinds(segmenter, options.kind)
    adapt(segmenter, options.adapt, curve=curve)
    if model.presence_threshold is None and tile is None:
        supports.fit_presence(segmenter, find_images(options.refused, apart) if options.refused else ())
    elif model.presence_threshold is not None:
        for label in segmenter.labels:
            segmenter.fit_presence(label)  # without images: the threshold that was given counts
    return segmenter


def set_kinds(segmenter: Segmenter, kinds: Sequence[str]) -> None:
    """Set the kinds of labels as `--kind` gives them; raises `InvalidOption`, `InvalidSupport`."""
    for given in kinds:
        label, equals, kind = given.rpartition("=")
        if not equals or kind not in KINDS:
            raise InvalidOption(f"--kind {given}: give LABEL=thing or LABEL=stuff")
        segmenter.set_kind(label, kind)  # type: ignore[arg-type]


def adapt(segmenter: Segmenter, when: Adapt, *, curve: bool = False) -> None:
    """Adapt the labels, with a progress bar and a line for each on stderr; with `curve` its learning curve, too."""
    from fewseg.cli.common import progress_bar
    from fewseg.inference.adaptation.choice import ENOUGH_EXAMPLES

    least = {"auto": ENOUGH_EXAMPLES, "on": 2}.get(when)
    labels = [label for label in segmenter.labels if least is not None and segmenter.shots(label) >= least]
    reports = []
    with progress_bar("adapting") as advance:
        for place, label in enumerate(labels):

            def step(done: int, total: int, last: str, place: int = place) -> None:
                advance(place * total + done, len(labels) * total, last)

            reports.append(segmenter.adapt(label, force=when == "on", curve=curve, progress=step)[label])
    for report in reports:
        print(report, *(report.curve_lines() if curve else ()), sep="\n", file=sys.stderr)


def load_segmenter(path: Path, options: ModelOptions, *, compile: bool = False) -> Segmenter:
    """What `fewseg teach` wrote; raises `InvalidOption` for options that name another model."""
    from fewseg.images.depth import set_range
    from fewseg.inference.segmenter import Segmenter

    for name in ("model", "tta_scales"):
        if getattr(options, name) != getattr(type(options), name):
            raise InvalidOption(f"--{name.replace('_', '-')} is kept in {path}: leave it out, or teach again")
    set_range(options.range)
    return Segmenter.load(
        path,
        device=options.device,
        precision=options.precision,
        tta_flip=options.tta_flip or None,
        presence_threshold=options.presence_threshold,
        compile=compile,
    )
