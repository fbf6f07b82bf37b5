"""`fewseg teach`: from labelled images to one file that segments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fewseg.cli.examples import ExampleOptions, read_examples, taught_segmenter
from fewseg.cli.options import LogOptions, ModelOptions
from fewseg.core.errors import InvalidOption


@dataclass(frozen=True, kw_only=True)
class Options(ExampleOptions, ModelOptions, LogOptions):
    """Teach with labelled images, adapt to them, and keep the result in one file.

    `fewseg segment --segmenter FILE` uses it without the examples, which it does not hold.
    """

    out: Path
    """The file, NAME.fewseg."""
    learning_curve: bool = False
    """Print the IoU for growing numbers of examples, which says whether more would help; takes some seconds a label."""


def run(options: Options) -> int:
    """Teach; 0."""
    from fewseg.cli.common import log_to_terminal

    log_to_terminal(options.verbose)
    if options.support is None:
        raise InvalidOption("missing --support: the labelled images to teach with; see fewseg teach --help")
    if options.out.suffix != ".fewseg":
        raise InvalidOption(f"{options.out}: give the file a name that ends in .fewseg")
    options.check_examples(options)
    segmenter = taught_segmenter(
        options, options, read_examples(options), apart=options.out, curve=options.learning_curve
    )
    segmenter.save(options.out)
    taught = ", ".join(f"{label} ({segmenter.shots(label)})" for label in segmenter.labels)
    print(f"{options.out}: {taught}")
    return 0
