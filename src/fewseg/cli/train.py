"""`fewseg train`: train a method on one or more datasets."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import tyro
from rich.console import Console

from fewseg.cli.common import progress_bar
from fewseg.training.config import TrainConfig
from fewseg.training.largest_batch import largest_batch
from fewseg.training.recipes import as_python, find_recipe
from fewseg.training.train import train


@dataclass(frozen=True)
class Options(TrainConfig):
    """Train a method on folders of labelled images; run the same command again to resume.

    A dataset is a folder of class folders (CLASS/name.jpg with its mask CLASS/name.png), a folder with images/, masks/
    (one value a class) and classes.txt, a benchmark (pascal5i:ROOT, coco20i:ROOT, coco20i-panet:ROOT, fss1000:ROOT), or
    the word `synthetic`. The defaults are the DCAMA paper's recipe. `torchrun --nproc-per-node 4 -m fewseg.cli train
    ...` divides every batch among four processes.
    """

    out: Path = dataclasses.field(kw_only=True)
    """Where best.safetensors, last.safetensors, metrics.jsonl and TensorBoard events go."""
    recipe: str | None = None
    """Settings of a paper by name, METHOD-BENCHMARK-BACKBONE: dcama-pascal5i-resnet50, sccan-coco20i-resnet101-5shot.
    What is given beside it counts instead."""
    show: bool = False
    """Print the whole config as Python, and end."""
    find_batch: bool = False
    """Print the largest batch that fits into memory, and end. Reads no data; kept maps and what others start later come
    on top."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Log what is done."""


_NOWHERE: Final = ("--out", ".")


def complete(arguments: Sequence[str]) -> list[str]:
    """The arguments with those of the recipe that they name in front, where later ones count instead.

    To show a recipe, or to find the largest batch, neither data nor a folder has to be named.
    """
    given, first = list(arguments), []
    shows, finds = "--show" in given, "--find-batch" in given
    name = _value(given, "recipe")
    if name is not None:
        recipe = find_recipe(name)
        first = _as_arguments(recipe.fields(_fold(given)))
        if shows and _value(given, "data") is None:
            first += ["--data", f"{recipe.benchmark}:ROOT"]
    if finds and _value(given, "data") is None:
        first += ["--data", "synthetic"]
    if (shows or finds) and _value(given, "out") is None:
        first += _NOWHERE
    return first + given


def _value(arguments: Sequence[str], option: str) -> str | None:
    """What stands behind the last `--option`, or in `--option=VALUE`."""
    found = None
    for place, word in enumerate(arguments):
        if word.startswith(f"--{option}="):
            found = word.split("=", 1)[1]
        elif word == f"--{option}" and place + 1 < len(arguments):
            found = arguments[place + 1]
    return found


def _fold(arguments: Sequence[str]) -> int:
    """The fold that options or the dataset's word name; 0 where none does."""
    behind = re.search(r"@(\d+)(/\d+)?$", _value(arguments, "data") or "")
    word = behind[1] if behind else _value(arguments, "fold")
    return int(word) if word and word.isdigit() else 0


def _as_arguments(fields: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in fields.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def _find_batch(config: TrainConfig) -> None:
    """Print the largest batch that fits, and how the config's comes to that."""
    found = largest_batch(config)
    print(found)
    if found.episodes and config.batch > found.episodes:
        parts = next(
            n for n in range(2, config.batch + 1) if config.batch % n == 0 and config.batch // n <= found.episodes
        )
        print(f"a batch of {config.batch}: --accumulate {parts} (the same update, {config.batch // parts} at a time)")


def run(options: Options) -> int:
    """Train to the end and say where the checkpoint is."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)}
    config = TrainConfig(**fields)
    if options.show:
        print(as_python(config, find_recipe(options.recipe) if options.recipe else None))
        return 0
    if options.find_batch:
        _find_batch(config)
        return 0
    speaks = int(os.environ.get("RANK", 0)) == 0  # of several processes the first
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level if speaks else logging.ERROR, format="%(message)s")
    with contextlib.ExitStack() as stack:
        # The bar appears with the first step: what fails before that is said in one line and nothing else.
        bar = functools.cache(lambda: stack.enter_context(progress_bar("training")))
        report = train(config, options.out, progress=lambda done, total, last: bar()(done, total, last))
    if report.steps == report.resumed_from:
        say = f"was finished already, at step {report.steps}"
    elif report.best_step:
        say = f"best validation mIoU {report.best_miou:.1f} at step {report.best_step} of {report.steps}"
    else:
        say = f"{report.steps} steps done, last loss {report.loss:.4f}"
    if speaks:
        Console(stderr=True).print(f"{say}: {report.best}", markup=False, highlight=False, soft_wrap=True)
    return 0
