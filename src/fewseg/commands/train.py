"""`fewseg train`: train a method on one or more datasets."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from fewseg.commands.common import progress_bar
from fewseg.training.config import TrainConfig
from fewseg.training.loop import train


@dataclass(frozen=True)
class Options(TrainConfig):
    """Train a method on folders of labelled pictures; run the same command again to resume.

    A dataset is a folder of class folders (CLASS/name.jpg with its mask CLASS/name.png), a folder with images/, masks/
    (one value a class) and classes.txt, or the word `synthetic`. The defaults are the DCAMA paper's recipe.
    """

    out: Path = dataclasses.field(kw_only=True)
    """Where best.safetensors, last.safetensors, metrics.jsonl and TensorBoard events go."""
    verbose: Annotated[bool, tyro.conf.arg(aliases=["-v"])] = False
    """Log what is done."""


def run(options: Options) -> int:
    """Train to the end and say where the checkpoint is."""
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, format="%(message)s")
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(TrainConfig)}
    config = TrainConfig(**fields)
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
    Console(stderr=True).print(f"{say}: {report.best}", markup=False, highlight=False, soft_wrap=True)
    return 0
