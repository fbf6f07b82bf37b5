"""`fewseg bench`: time and memory on this machine, beside a baseline implementation and the machine's roofline."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fewseg.cli.options import LogOptions, NamedModelOptions
from fewseg.core.errors import InvalidOption, unknown
from fewseg.tools.bench_options import BUDGETS, PARTS, MeasuringOptions

if TYPE_CHECKING:
    from fewseg_bench.results import Results
    from fewseg_bench.run import BenchPlan
    from fewseg_bench.settings import BenchSettings


BENCHMARKS: Final = Path(__file__).parents[3] / "benchmarks"
"""Folder of the repository that holds `fewseg_bench`, which measures; the wheel does not carry it."""


@dataclass(frozen=True)
class _Positional:
    """What is given without an option's name."""

    parts: tuple[str, ...] = ()
    """What to measure."""


@dataclass(frozen=True, kw_only=True)
class Options(MeasuringOptions, NamedModelOptions, LogOptions, _Positional):
    """Measure time and memory: a baseline implementation and fewseg's, taking turns in one run, with the same weights.

    The baseline encodes the support again for every query and materialises all attention scores. Beside
    both stands the machine's limit: the operations that a query needs when nothing is done twice, at the rate at which
    this machine multiplies matrices in that precision, or in float32 where that is quicker. Nothing is downloaded:
    weights are random, but for the embedded model's. With --out, the same command goes on where it was stopped.

    The programs that measure belong to fewseg's repository: run the command from a checkout of it, installed with
    `pip install -e .`.

    Parts: queries, implementations (DCAMA's), curves, training (one shot, in float32); these four if none is named.
    And accuracy, that of --model, which needs --data.
    """

    models: tuple[str, ...] | None = None
    """Models to measure, of dcama-resnet50, dcama-resnet101, dcama-swin_b, embedded, sccan-resnet50, hsnet-resnet50 and
    dcama-tiny, a small one for trials; all but that if not given, and some of them for curves, implementations and
    training."""
    shots: tuple[int, ...] | None = None
    """Numbers of support images; 1 5 10 if not given."""
    repeats: int | None = None
    """Rounds, in each of which every variant runs; 5 if not given."""
    precisions: tuple[str, ...] | None = None
    """Precisions, of both variants: float32, bfloat16, float16. If not given, float32, and bfloat16 where the device
    has instructions for it. Training is measured in float32 alone."""
    quick: bool = False
    """The embedded model's 5-shot queries only, in 3 rounds, in about a minute; parts that are named come small too.
    Models, shots and repeats that are given count instead."""
    out: Path | None = None
    """Folder for results.json, results.md and the plots; goes on with what is there."""
    json: Path | None = None
    """Write the numbers to this file too."""
    overwrite: bool = False
    """Measure the parts again, and drop all that --out holds of them; other parts stay."""
    data: tuple[str, ...] = ()
    """Folders to measure accuracy on, as `fewseg evaluate` takes them: ROOT@cat,dog."""
    budgets: tuple[int, ...] = BUDGETS
    """Support-token budgets whose accuracy is measured."""
    episodes_per_class: int = 15
    """Episodes of every class, for accuracy."""


def run(options: Options) -> int:
    """Measure, print the tables, write what was asked for."""
    _require_checkout()
    from fewseg.cli.common import log_to_terminal, progress_bar
    from fewseg_bench.report import report
    from fewseg_bench.results import open_results
    from fewseg_bench.run import about, measure

    log_to_terminal(options.verbose)
    settings = _settings(options)
    parts = _parts(options, settings)
    plan = _plan(options, settings, parts)
    results = open_results(options.out, about(settings), overwrite=options.overwrite, parts=parts)
    with progress_bar("measuring") as advance:
        measure(settings, plan, results, progress=advance)
    text = report(results)
    print(text)
    _write(options, results, text)
    return 0


def _require_checkout() -> None:
    """Make `fewseg_bench` importable; raises `InvalidOption` where fewseg does not run from its repository."""
    if importlib.util.find_spec("fewseg_bench") is None:
        if not (BENCHMARKS / "fewseg_bench").is_dir():
            raise InvalidOption("fewseg bench measures with programs of the repository: run it from a checkout of it")
        sys.path.append(str(BENCHMARKS))


def _parts(options: Options, settings: BenchSettings) -> tuple[str, ...]:
    """The parts that were named, or the usual ones; what cannot be read or written is said before it is measured."""
    from fewseg.core.files import make_folder
    from fewseg_bench.accuracy import accuracy_variants, load_variant, open_accuracy_data

    for part in options.parts:
        if part not in PARTS:
            raise unknown("part", part, PARTS)
    if options.episodes_per_class < 1:
        raise InvalidOption(f"--episodes-per-class {options.episodes_per_class}: give at least 1")
    parts = tuple(part for part in PARTS if part in options.parts)
    if not parts:
        parts = tuple(part for part in PARTS if part != "accuracy" or options.data)
        if options.quick:
            parts = tuple(part for part in parts if part in ("queries", "accuracy"))
    if "accuracy" in parts:
        open_accuracy_data(options.data)
        for variant in accuracy_variants(options.budgets, settings.precisions):
            load_variant(options.model, variant, options.size)
    if options.json is not None:
        if options.json.is_dir():
            raise InvalidOption(f"--json {options.json} is a folder: name a file, e.g. {options.json / 'bench.json'}")
        make_folder(options.json.absolute().parent)
    return parts


def _settings(options: Options) -> BenchSettings:
    """What was given, and for the rest the usual values, or those of --quick."""
    from fewseg.core.devices import has_bfloat16
    from fewseg_bench.settings import QUICK, BenchSettings

    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(BenchSettings)}
    usual = QUICK if options.quick else BenchSettings()
    settings = dataclasses.replace(usual, **{name: value for name, value in given.items() if value is not None})
    if options.precisions is None and not has_bfloat16(settings.torch_device):
        return dataclasses.replace(settings, precisions=("float32",))
    return settings


def _plan(options: Options, settings: BenchSettings, parts: tuple[str, ...]) -> BenchPlan:
    from fewseg_bench.curves import QUICK_CURVES
    from fewseg_bench.run import full_plan

    more = {"data": options.data, "checkpoint": options.model, "budgets": options.budgets}
    plan = full_plan(parts, settings, per_class=options.episodes_per_class, **more)
    if "implementations" in options.parts and not plan.implementation_models:
        raise InvalidOption(
            f"implementations are DCAMA's, none of {' '.join(settings.models)} is one: give --models dcama-resnet50"
        )
    if options.quick:
        return dataclasses.replace(plan, curves=QUICK_CURVES, training=tuple((model, 2) for model, _ in plan.training))
    return plan


def _write(options: Options, results: Results, text: str) -> None:
    from rich.console import Console

    from fewseg.core.files import write_text
    from fewseg_bench.plots import draw_plots

    say = Console(stderr=True)
    if options.out is not None:
        write_text(options.out / "results.md", text)
        plots = draw_plots(results, options.out)
        say.print(f"written: {options.out}, {len(plots)} plots", markup=False, highlight=False, soft_wrap=True)
    if options.json is not None:
        results.write(options.json)
