"""Calibration of the checkpoint that a training run leaves."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from fewseg.core.distributed import Processes
from fewseg.models.checkpoints.native import load_method, save_method
from fewseg.training.calibration.episodes import calibrate_method
from fewseg.training.calibration.presence import calibrate_presence
from fewseg.training.config import TrainConfig
from fewseg.training.data import TrainingData

log = logging.getLogger(__name__)


def is_calibrated(path: Path) -> bool:
    """Whether a checkpoint has a presence scale."""
    return "presence_threshold" in load_method(path).extra


def calibrate_checkpoint(
    path: Path, data: TrainingData, config: TrainConfig, device: torch.device | str, processes: Processes
) -> None:
    """Fit the method's own calibration and the presence scale on validation episodes; the main process saves them."""
    processes.barrier()  # until the checkpoint is written
    method = load_method(path).to(device)
    calibrate_method(method, data.validation, seed=config.seed, negative_episodes=config.negative_episodes > 0)
    processes.broadcast([*method.buffers()])  # rounding may lead each process to a fit of its own
    values = calibrate_presence(method, data.validation, seed=config.seed, amp=config.amp, processes=processes)
    if processes.main:
        log.info("presence: %s", values)
        save_method(method, path, extra={**method.extra, **values})
