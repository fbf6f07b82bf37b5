"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

from torch import nn, optim

from fewseg.errors import InvalidOption
from fewseg.training.config import TrainConfig


def make_optimiser(method: nn.Module, config: TrainConfig) -> optim.Optimizer:
    """SGD with Nesterov momentum (as DCAMA's release) or AdamW, the backbone at its own rate.

    Every group has a `factor` on the scheduled learning rate. Raises `InvalidOption` where nothing can be trained.
    """
    own: list[nn.Parameter] = []
    backbone: list[nn.Parameter] = []
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            (backbone if name.startswith("backbone.") else own).append(parameter)
    groups: list[dict[str, Any]] = [{"params": own, "factor": 1.0}]
    if backbone:
        groups.append({"params": backbone, "factor": config.backbone_lr_factor})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise InvalidOption(f"method {config.method} has nothing to train: evaluate it as it is")
    if config.optimiser == "adamw":
        return optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    nesterov = config.momentum > 0
    return optim.SGD(
        groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=nesterov
    )


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step, counted from 0: a function of the step alone, so there is nothing to restore on resuming.

    After the warm-up, cosine and poly fall from `lr` at the first step towards 0 after the last.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    left = max(0.0, 1 - done)
    if config.schedule == "poly":
        return float(config.lr * left**0.9)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (1 - left)))


def set_learning_rate(optimiser: optim.Optimizer, rate: float) -> None:
    """`rate` times its factor in every group."""
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]
