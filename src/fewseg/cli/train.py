"""`fewseg train`: train a method on one or more datasets."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts.config import Dict

from fewseg.cli.options import FLAT, LogOptions
from fewseg.cli.parser import Source, given
from fewseg.training.config import TrainConfig
from fewseg.training.config_file import as_yaml, read_yaml
from fewseg.training.recipes import find_recipe

if TYPE_CHECKING:
    from cyclopts import ArgumentCollection

    from fewseg.training.train import TrainReport


@dataclass(frozen=True, kw_only=True)
class Options(LogOptions):
    """Train a method on folders of labelled images; run the same command again to resume.

    A dataset is a folder of class folders (CLASS/name.jpg with its mask CLASS/name.png), a folder with images/, masks/
    (one value a class) and classes.txt, a benchmark (pascal5i:ROOT, coco20i:ROOT, coco20i-panet:ROOT, fss1000:ROOT), or
    the word `synthetic`. The defaults are the DCAMA paper's recipe. `torchrun --nproc-per-node 4 -m fewseg.cli train
    ...` divides every batch among four processes.
    """

    settings: Annotated[TrainConfig, FLAT]
    out: Path
    """Where best.safetensors, last.safetensors, config.yaml, metrics.jsonl and TensorBoard events go."""
    config: Path | None = None
    """A YAML file with any of these options, `lr: 0.01`: as --show prints it, and as every run writes OUT/config.yaml.
    What is given beside it counts instead."""
    recipe: str | None = None
    """Settings by name: of a paper, METHOD-BENCHMARK-BACKBONE, as dcama-pascal5i-resnet50 or
    sccan-coco20i-resnet101-5shot, or ours for any data over a foundation model, METHOD/BACKBONE, as dcama/dinov2-small.
    What a config file or the command line says counts instead."""
    show: bool = False
    """Print all settings as YAML for --config, and end."""
    find_batch: bool = False
    """Print the largest batch that fits into memory, and end. Reads no data; the feature cache and what other programs
    start later come on top."""


def _from_file(app: Any, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """What the file behind --config says."""
    for path in given(arguments, "--config"):
        Dict(read_yaml(Path(path)), source=path, use_commands_as_keys=False)(app, commands, arguments)


def _from_recipe(app: Any, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """What the recipe says for the fold; shown without data, it names where data stand."""
    for name in given(arguments, "--recipe"):
        recipe = find_recipe(name)
        fields = recipe.fields(_fold(arguments))
        if given(arguments, "--show"):
            fields["data"] = f"{recipe.benchmark}:ROOT" if recipe.benchmark else "ROOT"
        Dict(fields, source=f"recipe {name}", use_commands_as_keys=False)(app, commands, arguments)


def _from_nothing(app: Any, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """To show settings no folder has to be named, to find the largest batch no data either."""
    shows, finds = given(arguments, "--show"), given(arguments, "--find-batch")
    unused = ({"out": "."} if shows or finds else {}) | ({"data": "synthetic"} if finds else {})
    Dict(unused, source="fewseg", use_commands_as_keys=False)(app, commands, arguments)


SOURCES: Final[tuple[Source, ...]] = (_from_file, _from_recipe, _from_nothing)
"""Where options come from that the command line does not give, the first that has one."""


def _fold(arguments: ArgumentCollection) -> int:
    """The fold that the dataset's word or the options name; 0 where none does."""
    behind = re.search(r"@(\d+)(/\d+)?$", " ".join(given(arguments, "--data")[:1]))
    word = behind[1] if behind else " ".join(given(arguments, "--fold")[-1:])
    return int(word) if word.isdigit() else 0


def _find_batch(config: TrainConfig) -> None:
    """Print the largest batch that fits, and how the config's comes to that."""
    from fewseg.training.largest_batch import largest_batch

    found = largest_batch(config)
    print(found)
    batch = config.batch_size
    if found.episodes and batch > found.episodes:
        steps = next(n for n in range(2, batch + 1) if batch % n == 0 and batch // n <= found.episodes)
        print(f"a batch of {batch}: --grad-accum-steps {steps} (the same update, {batch // steps} at a time)")


def run(options: Options) -> int:
    """Train to the end and say where the checkpoint is."""
    if options.show:
        print(as_yaml(options.settings, find_recipe(options.recipe) if options.recipe else None), end="")
        return 0
    if options.find_batch:
        _find_batch(options.settings)
        return 0
    from fewseg.cli.common import log_to_terminal, progress_bar
    from fewseg.training.train import train

    speaks = int(os.environ.get("RANK", 0)) == 0  # of several processes the first
    log_to_terminal(options.verbose, silent=not speaks)
    with contextlib.ExitStack() as stack:
        # The bar appears with the first step: what fails before that is said in one line and nothing else.
        bar = functools.cache(lambda: stack.enter_context(progress_bar("training")))
        report = train(options.settings, options.out, progress=lambda done, total, last: bar()(done, total, last))
    if speaks:
        _conclude(report)
    return 0


def _conclude(report: TrainReport) -> None:
    from rich.console import Console

    if report.steps == report.resumed_from:
        say = f"was finished already, at step {report.steps}"
    elif report.best_step:
        say = f"best validation mIoU {report.best_miou:.1f} at step {report.best_step} of {report.steps}"
    else:
        say = f"{report.steps} steps done, last loss {report.loss:.4f}"
    Console(stderr=True).print(f"{say}: {report.best}", markup=False, highlight=False, soft_wrap=True)
