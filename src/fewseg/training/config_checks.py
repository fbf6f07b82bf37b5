"""What a `TrainConfig` may hold; every function raises `InvalidOption` for values that cannot work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, get_args, get_origin, get_type_hints

from fewseg.core.bounds import MOST_AT_ONCE, check_number
from fewseg.core.errors import InvalidOption, unknown

if TYPE_CHECKING:
    from fewseg.training.config import TrainConfig


def check_config(config: TrainConfig) -> None:
    """All checks of a config."""
    _check_choices(config)
    _check_numbers(config)
    _check_epoch(config)
    _check_data(config)
    _check_feature_cache(config)
    _check_start(config)


def _check_choices(config: TrainConfig) -> None:
    for name, kind in get_type_hints(type(config)).items():
        if get_origin(kind) is Literal and getattr(config, name) not in get_args(kind):
            raise unknown(name, str(getattr(config, name)), get_args(kind))


def _check_numbers(config: TrainConfig) -> None:
    for name in ("batch_size", "grad_accum_steps", "epochs", "checkpoint_every", "log_every", "image_size"):
        if getattr(config, name) < 1:
            raise InvalidOption(f"{name} is {getattr(config, name)}: give at least 1")
    for name in (
        *("lr", "attention_lr", "backbone_lr_factor", "momentum", "weight_decay", "warmup", "clip_grad", "workers"),
        *("threads", "cached_views", "validation_episodes", "patience", "seed", "cache_megabytes"),
        "episodes_per_epoch",
    ):
        if not 0 <= getattr(config, name) < math.inf:
            raise InvalidOption(f"{name} is {getattr(config, name)}: give a finite number, 0 or more")
    for name in ("epochs", "episodes_per_epoch", "validation_episodes", "warmup", "patience", "grad_accum_steps"):
        check_number(name, getattr(config, name))
    for name in ("batch_size", "workers", "threads", "cached_views"):
        check_number(name, getattr(config, name), MOST_AT_ONCE)
    if config.seed >= 1 << 63:
        raise InvalidOption(f"seed is {config.seed}: give a number below 2 ** 63")
    for name in ("negative_episodes", "ema_decay"):
        if not 0 <= getattr(config, name) < 1:
            raise InvalidOption(f"{name} is {getattr(config, name)}: give 0 or more, below 1")
    if not 0 <= config.splice <= 1:
        raise InvalidOption(f"splice is {config.splice}: give a fraction from 0 to 1")
    if not config.shots or min(config.shots) < 1:
        raise InvalidOption(f"shots {' '.join(map(str, config.shots))}: give at least 1")
    check_number("shots", max(config.shots), MOST_AT_ONCE)


def _check_epoch(config: TrainConfig) -> None:
    if config.drop_last and 0 < config.episodes_per_epoch < config.batch_size:
        raise InvalidOption(
            f"episodes_per_epoch {config.episodes_per_epoch} is less than batch_size {config.batch_size}: "
            "an epoch needs one batch"
        )
    every = config.validate_every
    if not (every >= 1 and every == int(every)) and every != 0.5:
        raise InvalidOption(f"validate_every is {every}: give 0.5, or a whole number of epochs")


def _check_data(config: TrainConfig) -> None:
    if not config.data:
        raise InvalidOption("no data to train on: give at least one dataset folder")
    if config.weights and (
        len(config.weights) != len(config.data)
        or not min(config.weights) >= 0
        or not 0 < sum(config.weights) < math.inf
    ):
        raise InvalidOption(f"{len(config.weights)} weights for {len(config.data)} datasets: give one each, not all 0")
    if len(config.validation_classes) not in (1, len(config.data)) or min(config.validation_classes) < 0:
        raise InvalidOption(
            f"validation_classes {' '.join(map(str, config.validation_classes))}: "
            "give one number, or one for each dataset, 0 or more"
        )
    if config.patience and not config.validates:
        raise InvalidOption(
            "patience without validation: give patience 0, or validation_episodes and validation_classes"
        )
    if config.small_queries and config.queries != "images":
        raise InvalidOption(f"small_queries with queries {config.queries}: leave it out, or give queries images")


def _check_feature_cache(config: TrainConfig) -> None:
    if config.cached_views and config.train_backbone:
        raise InvalidOption("maps of a backbone that is trained cannot be cached: leave out cached_views")
    if config.augment != "none" and config.cached_views == 1:
        raise InvalidOption(f"augment {config.augment} with the plain view alone: give cached_views 2 or more")
    if config.augment == "none" and config.cached_views > 1:
        raise InvalidOption(f"{config.cached_views} cached views, all alike: give augment, or cached_views 1")
    if config.cache_folder and not config.cached_views:
        raise InvalidOption("cache_folder without maps to cache there: give cached_views, 1 for the plain images")


def _check_start(config: TrainConfig) -> None:
    if config.model_kwargs and config.init_from:
        raise InvalidOption("a checkpoint brings its method's config: leave out model_kwargs, or init_from")
    weights = config.pretrained or config.backbone_weights or config.init_from or config.train_backbone
    if not weights and not config.random_backbone:
        raise InvalidOption(
            f"backbone {config.backbone} would be random and stay so: give --pretrained, --backbone-weights PATH, "
            "--init-from CHECKPOINT or --train-backbone; --random-backbone allows it for a trial"
        )
