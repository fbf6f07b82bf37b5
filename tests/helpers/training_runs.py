"""A training run of a few steps with the toy method, as `train` makes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fewseg.data.datasets.synthetic import SyntheticDataset
from fewseg.data.episodes.sources import open_source
from fewseg.training.config import TrainConfig
from fewseg.training.data import TrainingData, divide
from fewseg.training.log import read_metrics
from fewseg.training.state import read_state
from fewseg.training.train import TrainReport, fit
from helpers.toy_method import toy

CONFIG = TrainConfig(
    data=("synthetic@0/4",),
    backbone="tiny",
    random_backbone=True,
    image_size=32,
    batch_size=2,
    episodes_per_epoch=8,
    epochs=2,
    lr=1e-3,
    optimiser="adamw",
    augment="strong",
    workers=0,
    validation_episodes=4,
    validation_classes=(2,),
    checkpoint_every=3,
    tensorboard=False,
    device="cpu",
)
"""Two epochs of four steps; checkpoints after steps 3, 4, 6, 8."""


def small_data(config: TrainConfig) -> TrainingData:
    opened = open_source("synthetic@0/4")
    return divide([replace(opened, dataset=SyntheticDataset(per_class=6, size=48))], (1.0,), config)


def run(out: Path, config: TrainConfig = CONFIG, stop_at: int | None = None) -> TrainReport:
    """A run as `train` makes it; `stop_at` stops it after that step as Ctrl-C would."""

    def progress(step: int, total: int, word: str) -> None:
        if step == stop_at:
            raise KeyboardInterrupt

    state = read_state(out)
    if state is not None:
        config.check_resumes(state["config"], str(out))
    return fit(toy(), small_data(config), config, out, state=state, progress=progress)


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out) if "loss" in line]
