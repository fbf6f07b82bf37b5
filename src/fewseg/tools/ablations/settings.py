"""The settings of an ablation: how its variants are trained and measured."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass
from typing import Any, Final

from fewseg.core.choices import Scoring
from fewseg.core.errors import InvalidOption, unknown
from fewseg.tools.ablations.experiments import Variant
from fewseg.training.config import TrainConfig


@dataclass(frozen=True)
class Settings:
    """How variants are trained and measured. All alike; the defaults of training are the DCAMA paper's."""

    data: tuple[str, ...] = ()
    """Datasets, as for `fewseg train` and `fewseg evaluate`: trained on the base classes, measured on the novel ones.
    ROOT@1/4 keeps fold 1 of 4 for measuring; pascal5i:ROOT needs --fold."""
    fold: tuple[int, ...] = ()
    """Folds, for datasets without @: each is trained and measured, and the mean is printed."""
    folds: int = 4
    """Number of folds."""
    min_area: float = 0.0
    """Share of an image that a class must cover to be used."""

    backbone: str = "resnet50"
    """resnet50, resnet101, swin_b, tiny, or any timm model name."""
    pretrained: bool = False
    """Download the backbone's ImageNet weights."""
    backbone_weights: str | None = None
    """Read the backbone's weights from this file instead."""
    random_backbone: bool = False
    """Allow a backbone with random weights, for trials."""
    image_size: int = 384
    """Side of the square input of every variant, in pixels."""
    model_kwargs: tuple[str, ...] = ()
    """Fields of DCAMA's config that all its variants share, as KEY=VALUE: `attention=cosine`."""
    epochs: int = 100
    """Passes of `episodes_per_epoch` episodes."""
    episodes_per_epoch: int = 2000
    """Training episodes of an epoch."""
    batch_size: int = 8
    """Episodes of a training step."""
    cached_views: int = 0
    """Keep the backbone's maps of so many views of every image while training; 1: the plain image."""
    cache_folder: str | None = None
    """Keep these maps in files there, for all variants, instead of in memory."""
    train: tuple[str, ...] = ()
    """Other settings of `fewseg train`, as KEY=VALUE: `lr=0.01 optimiser=adamw validation_classes=(2,)`."""
    model: str | None = None
    """Measure this model instead of training one; for experiments that need only one. Without settings of training."""

    shots: tuple[int, ...] = ()
    """Numbers of support images to measure; the experiment's own if not given."""
    protocol: str | None = None
    """How episodes are drawn and scored: hsnet for benchmarks, folder for other datasets, if not given."""
    evaluation_episodes: int | None = None
    """Episodes to measure, of a fold (protocol folder: of a class); the protocol's own if not given."""
    scoring: Scoring | None = None
    """Compare at the query's original size, or at the model's input size; the protocol's own if not given."""
    evaluation_batch_size: int = 1
    """Episodes that are segmented together."""
    repeats: int = 5
    """Runs of which the median time is taken."""
    seed: tuple[int, ...] = (0,)
    """Of training; several train every model as often, and the mean is printed with its 95 % interval."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""


_MAKING: Final = (
    *("backbone", "pretrained", "backbone_weights", "random_backbone", "image_size", "model_kwargs"),
    *("epochs", "episodes_per_epoch", "batch_size", "cached_views", "cache_folder", "train", "seed"),
)
"""Settings that make a model, and mean nothing for one that is given."""


_KEYS: Final = {
    "model": "checkpoint",
    "model_kwargs": "options",
    "episodes_per_epoch": "episodes",
    "batch_size": "batch",
    "cached_views": "cache_views",
    "evaluation_episodes": "count",
    "evaluation_batch_size": "measure_batch",
}
"""Settings whose keys in files are older than their names: results of earlier versions go on."""


def check_given_model(settings: Settings) -> None:
    """Raise `InvalidOption` for settings that a given model leaves nothing to."""
    usual = Settings()
    for name in _MAKING:
        if settings.model is not None and getattr(settings, name) != getattr(usual, name):
            option = name.replace("_", "-")
            raise InvalidOption(f"--model brings its own model: leave out --{option}")


def deciding_settings(settings: Settings) -> dict[str, Any]:
    """The settings that numbers depend on, as JSON values: with a given model none of those that make one."""
    left_out = _MAKING if settings.model is not None else ()
    kept = {name: value for name, value in dataclasses.asdict(settings).items() if name not in left_out}
    return {_KEYS.get(name, name): value for name, value in kept.items()}


def train_config(variant: Variant, settings: Settings, fold: int | None, seed: int) -> TrainConfig:
    """The training run of a variant; raises `InvalidOption` for settings that cannot work."""
    given: dict[str, Any] = {
        "backbone": settings.backbone,
        "pretrained": settings.pretrained,
        "backbone_weights": settings.backbone_weights,
        "random_backbone": settings.random_backbone,
        "image_size": settings.image_size,
        "epochs": settings.epochs,
        "episodes_per_epoch": settings.episodes_per_epoch,
        "batch_size": settings.batch_size,
        "cached_views": settings.cached_views,
        "cache_folder": settings.cache_folder,
        "folds": settings.folds,
        "min_area": settings.min_area,
        "seed": seed,
        "device": settings.device,
        "method": variant.method,
        "model_kwargs": variant_options(variant, settings),
        "fold": fold,
        "data": settings.data,
    }
    return TrainConfig(**{**_train_fields(settings.train, given), **given})


def variant_options(variant: Variant, settings: Settings) -> tuple[str, ...]:
    """The variant's own fields, and those of all DCAMA variants that it does not set itself."""
    own = {word.partition("=")[0] for word in variant.options}
    common = settings.model_kwargs if variant.method == "dcama" else ()
    return (*(word for word in common if word.partition("=")[0] not in own), *variant.options)


def _train_fields(words: tuple[str, ...], taken: dict[str, Any]) -> dict[str, Any]:
    known = {field.name: field for field in dataclasses.fields(TrainConfig)}
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key in taken:
            raise InvalidOption(f"training setting {word!r}: write KEY=VALUE, with options of ablate's own apart")
        if key not in known:
            raise unknown("training setting", key, known)
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        default = known[key].default
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if default is not None and not isinstance(value, type(default)):
            raise InvalidOption(f"training setting {key} is {value!r}: give a value like {default!r}")
        values[key] = value
    return values
