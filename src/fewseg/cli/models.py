"""`fewseg models`: the models that can be named, and which of them are on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fewseg.cli.options import LogOptions
from fewseg.core.errors import unknown

if TYPE_CHECKING:
    from fewseg.models.zoo import ZooModel


@dataclass(frozen=True)
class _Positional:
    """What is given without an option's name."""

    names: tuple[str, ...] = ()
    """Only these, with all that is known of them."""


@dataclass(frozen=True, kw_only=True)
class Options(LogOptions, _Positional):
    """List the models that `--model` takes by name, with their weights' licences and what is downloaded already.

    Weights are downloaded when a model is first used. Names show where they come from and, for machines without a
    network, where to put the file.
    """

    download: bool = False
    """Download the weights of the models that are named, for later use without a network."""


def run(options: Options) -> int:
    """Print the table, or what is known of the named models."""
    from fewseg.cli.common import log_to_terminal
    from fewseg.models.zoo import ZOO

    log_to_terminal(options.verbose)
    if wrong := [name for name in options.names if name not in ZOO]:
        raise unknown("model", wrong[0], ZOO)
    for name in options.names if options.download else ():
        if (weights := ZOO[name].weights) is not None:
            weights.fetched()
    if options.names:
        print("\n\n".join(_details(ZOO[name]) for name in options.names))
    else:
        print(_table(list(ZOO.values())))
    return 0


def _table(models: list[ZooModel]) -> str:
    """A line a model, in columns."""
    rows = [("name", "method", "backbone", "size", "here", "licence of the weights")]
    for m in models:
        licence = m.licence.partition(" (")[0]
        rows.append((m.name, m.method, m.backbone, str(m.image_size), "yes" if m.here else "no", licence))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += ["", "fewseg models NAME tells all about one; docs/which-model.md which to choose."]
    return "\n".join(lines)


def _details(model: ZooModel) -> str:
    """All that is known of a model, a line each."""
    weights = model.weights
    found = None if weights is None else weights.here()
    facts = {
        "for": model.about,
        "method": model.method,
        "backbone": model.backbone,
        "input": f"{model.image_size} pixels square",
        "licence": model.licence,
        "measured": model.measured,
    }
    if weights is None:
        facts["weights"] = "come with fewseg"
    elif found is not None:
        facts["weights"] = str(found)
    else:
        facts["weights"] = f"{weights.url}, downloaded at the first use, or put by hand at {weights.place}"
    return "\n".join([model.name, *(f"  {name:<9} {fact}" for name, fact in facts.items())])
