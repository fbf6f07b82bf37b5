"""Trainings that `torchrun` starts as several processes, and a test as one: `python train_together.py FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from fewseg.core.distributed import Processes, join_processes
from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.sources import open_source
from fewseg.models.methods import METHODS, FewShotMethod, create_method
from fewseg.training.config import TrainConfig
from fewseg.training.data import divide
from fewseg.training.state import read_state
from fewseg.training.train import fit
from helpers.toy_method import Toy, ToyConfig, toy

CONFIG = TrainConfig(
    data=("synthetic@0/4",),
    backbone="tiny",
    random_backbone=True,
    image_size=32,
    batch_size=4,
    episodes_per_epoch=12,
    epochs=2,
    lr=1e-3,
    optimiser="adamw",
    workers=0,
    validation_episodes=6,
    validation_classes=(2,),
    checkpoint_every=2,
    tensorboard=False,
    device="cpu",
)
"""Two epochs of three steps."""


def toy_without_dropout() -> FewShotMethod:
    method = toy()
    method.config = ToyConfig(method.config.image_size, dropout=0.0)
    return method


def aligned() -> FewShotMethod:
    """A method with a regulariser."""
    torch.manual_seed(0)
    return create_method("prototype", backbone="tiny", image_size=32, learned=True)


RUNS: dict[str, tuple[TrainConfig, Callable[[], FewShotMethod]]] = {
    # Augmented images have borders that do not count, not equally many in every part of a batch. The last batch of an
    # epoch is one episode, which leaves the second process nothing to do.
    "plain": (
        replace(
            CONFIG,
            augment="sccan",
            loss="ce+dice",
            shots=(1, 2),
            clip_grad=0.05,
            episodes_per_epoch=9,
            drop_last=False,
        ),
        toy_without_dropout,
    ),
    "dropout": (replace(CONFIG, ema_decay=0.9), toy),
    "regulariser": (replace(CONFIG, epochs=1), aligned),
    "resumed": (replace(CONFIG, cached_views=2, augment="strong"), toy_without_dropout),
}
"""Config and method by name; `resumed` stops after its first epoch and goes on."""


def run(name: str, folder: Path, processes: Processes, **changes: object) -> None:
    """One of `RUNS` into FOLDER/NAME."""
    config, make = RUNS[name]
    config = replace(config, **changes)  # type: ignore[arg-type]
    if config.cached_views:
        config = replace(config, cache_folder=str(folder / "maps"))
    opened = open_source("synthetic@0/4")
    data = divide([replace(opened, dataset=SyntheticDataset(per_class=6, size=48))], (1.0,), config)
    out = folder / name
    if name == "resumed":
        fit(make(), data, replace(config, epochs=1), out, processes=processes)
        processes.barrier()
    fit(make(), data, config, out, state=read_state(out), processes=processes)


def main() -> None:
    torch.set_num_threads(1)
    METHODS[Toy.name] = Toy
    with join_processes("cpu") as processes:
        for name in RUNS:
            run(name, Path(sys.argv[1]), processes)


if __name__ == "__main__":
    main()
