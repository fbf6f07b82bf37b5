"""`fewseg ablate`: the DCAMA paper's experiments, on any dataset, beside its numbers."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from fewseg.cli.options import FLAT, LogOptions
from fewseg.core.errors import InvalidOption, unknown
from fewseg.tools.ablations.settings import Settings

if TYPE_CHECKING:
    from fewseg.tools.ablations.experiments import Experiment


@dataclass(frozen=True)
class _Positional:
    """What is given without an option's name."""

    experiments: tuple[str, ...] = ()
    """Names, e.g. `skip-scales background`."""


@dataclass(frozen=True, kw_only=True)
class Options(LogOptions, _Positional):
    """Run experiments of the DCAMA paper and print its numbers beside the measured ones.

    `fewseg ablate --list` explains each; `all` runs them all. Every variant is trained with the same settings, once for
    all experiments that share it. Run the same command again to resume: finished variants are not run again.
    """

    list_: Annotated[bool, Parameter(name="list")] = False
    """Explain the experiments, with the paper's numbers, and end."""
    out: Path | None = None
    """Where models, results.json and tables go."""
    settings: Annotated[Settings, FLAT] = field(default_factory=Settings)


def run(options: Options) -> int:
    """Run the experiments one after the other; a table each."""
    from fewseg.cli.common import log_to_terminal, progress_bar
    from fewseg.tools.ablations.experiments import EXPERIMENTS
    from fewseg.tools.ablations.report import listing, table, write_experiment
    from fewseg.tools.ablations.run import check_experiment, run_experiment

    log_to_terminal(options.verbose)
    chosen = _chosen(options.experiments)
    if options.list_:
        print(listing(chosen or list(EXPERIMENTS.values())))
        return 0
    if not chosen:
        raise InvalidOption("no experiment named: fewseg ablate --list shows them, `all` runs all")
    if options.out is None:
        raise InvalidOption("missing --out: the folder for models and results")
    settings = options.settings
    for experiment in chosen:
        check_experiment(experiment, settings)
    for experiment in chosen:
        with contextlib.ExitStack() as stack:
            # The bar appears with the first step: what fails before that is said in one line and nothing else.
            bar = functools.cache(lambda stack=stack: stack.enter_context(progress_bar("ablation")))
            outcome = run_experiment(experiment, settings, options.out, progress=lambda *done, bar=bar: bar()(*done))
        write_experiment(options.out / experiment.name, outcome, settings)
        print(table(outcome), end="\n\n")
    return 0


def _chosen(names: tuple[str, ...]) -> list[Experiment]:
    from fewseg.tools.ablations.experiments import EXPERIMENTS

    if "all" in names:
        return list(EXPERIMENTS.values())
    if wrong := [name for name in names if name not in EXPERIMENTS]:
        raise unknown("experiment", wrong[0], [*EXPERIMENTS, "all"])
    return [EXPERIMENTS[name] for name in dict.fromkeys(names)]
