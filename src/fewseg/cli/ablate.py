"""`fewseg ablate`: the DCAMA paper's experiments, on any dataset, beside its numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from fewseg.cli.common import progress_bar
from fewseg.core.errors import InvalidOption, unknown
from fewseg.tools.ablations import EXPERIMENTS, Experiment, Settings, check_experiment, run_experiment
from fewseg.tools.ablations.report import listing, table, write_outcome


@dataclass(frozen=True)
class Options(Settings):
    """Run experiments of the DCAMA paper and print its numbers beside the measured ones.

    `fewseg ablate --list` explains each; `all` runs them all. Every variant is trained with the same settings, once for
    all experiments that share it. Run the same command again to resume: finished variants are not run again.
    """

    experiments: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names, e.g. `skip-scales background`."""
    list_: Annotated[bool, tyro.conf.arg(name="list")] = False
    """Explain the experiments, with the paper's numbers, and end."""
    out: Path | None = None
    """Where models, results.json and tables go."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Log what is done."""


def run(options: Options) -> int:
    """Run the experiments one after the other; a table each."""
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    chosen = _chosen(options.experiments)
    if options.list_:
        print(listing(chosen or list(EXPERIMENTS.values())))
        return 0
    if not chosen:
        raise InvalidOption("no experiment named: fewseg ablate --list shows them, `all` runs all")
    if options.out is None:
        raise InvalidOption("missing --out: the folder for models and results")
    settings = Settings(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Settings)})
    for experiment in chosen:
        check_experiment(experiment, settings)
    for experiment in chosen:
        with contextlib.ExitStack() as stack:
            # The bar appears with the first step: what fails before that is said in one line and nothing else.
            bar = functools.cache(lambda stack=stack: stack.enter_context(progress_bar("ablation")))
            outcome = run_experiment(experiment, settings, options.out, progress=lambda *done, bar=bar: bar()(*done))
        write_outcome(options.out / experiment.name, outcome, settings)
        print(table(outcome), end="\n\n")
    return 0


def _chosen(names: tuple[str, ...]) -> list[Experiment]:
    if "all" in names:
        return list(EXPERIMENTS.values())
    if wrong := [name for name in names if name not in EXPERIMENTS]:
        raise unknown("experiment", wrong[0], [*EXPERIMENTS, "all"])
    return [EXPERIMENTS[name] for name in dict.fromkeys(names)]
