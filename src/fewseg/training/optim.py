"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from typing import Any

from torch import nn, optim

from fewseg.core.errors import InvalidOption
from fewseg.models.methods import FewShotMethod
from fewseg.training.config import TrainConfig


class Optimisers:
    """One optimiser, or two of different kinds, used as one. Every group has a `factor` on the scheduled rate."""

    def __init__(self, *parts: optim.Optimizer) -> None:
        self.parts = parts

    def set_learning_rate(self, rate: float) -> None:
        """`rate` times its factor in every group that follows the schedule."""
        for part in self.parts:
            for group in part.param_groups:
                if "factor" in group:
                    group["lr"] = rate * group["factor"]

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, values in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(values)


def make_optimiser(method: FewShotMethod, config: TrainConfig) -> Optimisers:
    """What the config names, for everything that can be trained; the backbone at its own rate.

    Raises `InvalidOption` where nothing can be trained, or no part of the method is for a second optimiser.
    """
    own: list[nn.Parameter] = []
    attention: list[nn.Parameter] = []
    backbone: list[nn.Parameter] = []
    apart = method.adamw_parameters if config.optimiser == "sgd+adamw" else ()
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            attended = bool(apart) and name.startswith(apart)
            (backbone if name.startswith("backbone.") else attention if attended else own).append(parameter)
    groups: list[dict[str, Any]] = [{"params": own, "factor": 1.0}]
    groups.append({"params": backbone, "factor": config.backbone_lr_factor})
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise InvalidOption(f"method {config.method} has nothing to train: evaluate it as it is")
    if config.optimiser == "adamw":
        return Optimisers(optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay))
    if config.optimiser == "adam":
        return Optimisers(optim.Adam(groups, lr=config.lr, weight_decay=config.weight_decay))
    nesterov = config.momentum > 0 and config.optimiser == "sgd"  # SCCAN's is plain
    sgd = optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay, nesterov=nesterov)
    if config.optimiser == "sgd":
        return Optimisers(sgd)
    if not attention:
        raise InvalidOption(f"method {method.name} has no attention blocks of their own: choose another optimiser")
    return Optimisers(sgd, optim.AdamW(attention, lr=config.attention_lr))


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of a step, counted from 0: a function of the step alone, so there is nothing to restore on resuming.

    After the warm-up, cosine falls from `lr` at the first step towards 0 after the last. Poly counts steps from 1, as
    SCCAN's released code: its last step has rate 0.
    """
    if step < config.warmup:
        return config.lr * (step + 1) / (config.warmup + 1)
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup + (config.schedule == "poly")) / max(1, config.steps - config.warmup)
    left = max(0.0, 1 - done)
    if config.schedule == "poly":
        return float(config.lr * left**0.9)
    return config.lr * 0.5 * (1 + math.cos(math.pi * (1 - left)))
