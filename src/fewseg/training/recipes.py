"""Settings of the papers by name: `dcama-pascal5i-resnet50` is DCAMA's on PASCAL-5i over a ResNet-50.

What a paper states is as its released code does it, the total batch included, however many processes divide it. What
is left open, and what would take too long, is ours, and `Recipe.ours` keeps the two apart.

`dcama/dinov2-small` is for any data, a method over a foundation model that stays frozen: all of it is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fewseg.core.errors import InvalidOption, unknown

_Fields = Mapping[str, Any]

PASCAL_LISTS: Final = (2286, 3425, 5883, 2086)
"""Pairs of the published train lists of PASCAL-5i; a fold is trained on those of the other three."""


@dataclass(frozen=True)
class Recipe:
    """Named settings of one method on one benchmark over one backbone."""

    name: str
    source: str
    """The paper."""
    benchmark: str
    """What the word of the data begins with: `pascal5i:ROOT`; empty where the recipe is for any data."""
    published: _Fields
    """Fields of `TrainConfig` as the paper or, where the two differ, the released code has them."""
    ours: _Fields
    """Fields that these leave open."""
    episodes: tuple[int, ...]
    """Of an epoch, for every fold, as the released code counts them on its lists; 0 where those were not at hand, for
    as many as the data have."""

    def fields(self, fold: int = 0) -> dict[str, Any]:
        """All fields of `TrainConfig` that the recipe sets for a fold; raises `InvalidOption` where there is none."""
        if not self.benchmark:
            return {**self.ours, "episodes_per_epoch": self.episodes[0]}
        if not 0 <= fold < len(self.episodes):
            raise InvalidOption(
                f"fold {fold} of recipe {self.name}: {self.benchmark} has 0 to {len(self.episodes) - 1}"
            )
        return {**self.published, **self.ours, "episodes_per_epoch": self.episodes[fold]}


_FROZEN: Final[_Fields] = {"pretrained": True, "train_backbone": False, "shots": (1,), "momentum": 0.9}
_DCAMA: Final[_Fields] = {
    **_FROZEN,
    "method": "dcama",
    "image_size": 384,
    "ignored_pixels": "background",
    "drop_last": False,
    "augment": "none",
    "loss": "ce",
    "optimiser": "sgd",
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "schedule": "constant",
}
_SCCAN: Final[_Fields] = {
    **_FROZEN,
    "method": "sccan",
    "image_size": 473,
    "selection": "sccan",
    "loss": "dice",
    "optimiser": "sgd+adamw",
    "lr": 5e-2,  # the released code's for every group of SGD; the paper's number, 0.005, is multiplied by 10 there
    "attention_lr": 6e-5,
    "weight_decay": 1e-4,
    "schedule": "poly",
    "batch_size": 8,
}
_HSNET: Final[_Fields] = {
    "pretrained": True,
    "train_backbone": False,
    "shots": (1,),
    "method": "hsnet",
    "image_size": 400,
    "ignored_pixels": "background",
    "drop_last": False,
    "loss": "ce",
    "augment": "none",
    "optimiser": "adam",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "schedule": "constant",
}
_VALIDATION_CLASSES: Final = {"pascal5i": 2, "coco20i": 4, "fss1000": 20}
"""Of 15, 60 and 520 base classes: few, as the papers train on all."""

_EPISODES: Final = {
    "pascal5i": tuple(sum(PASCAL_LISTS) - own for own in PASCAL_LISTS),
    "coco20i": (62_040, 74_381, 73_035, 73_808),
    "fss1000": (5_200,),
}
"""DCAMA's and HSNet's: pairs of PASCAL-5i, images of the others."""
_SCCAN_EPISODES: Final = {"pascal5i": (4_208, 3_726, 2_752, 4_510), "coco20i": (21_917, 0, 0, 0)}
"""Images that show no novel class, and a base class on 2048 pixels."""
_QUERIES: Final = {"pascal5i": "pairs", "coco20i": "classes", "fss1000": "images"}
_TESTED: Final = {"pascal5i": 1000, "coco20i": 1000, "fss1000": 2400}
"""Episodes of the test protocol by which DCAMA and HSNet choose their checkpoint."""
_DCAMA_BATCH: Final = {"pascal5i": 48, "coco20i": 48, "fss1000": 40}
_HSNET_BATCH: Final = {"pascal5i": 20, "coco20i": 40, "fss1000": 20}
_COCO_EPOCHS: Final = {"dcama": 90, "hsnet": 355}
"""Of DCAMA's Table S2, which is over Swin-B."""


def _dcama(benchmark: str, backbone: str) -> Recipe:
    published, ours = _with_epochs("dcama", benchmark, backbone, 100)
    batch = {"batch_size": _DCAMA_BATCH[benchmark]}
    source = "Shi et al., ECCV 2022"
    return _made(source, benchmark, backbone, {**_DCAMA, **batch, **published}, ours)


def _hsnet(benchmark: str, backbone: str) -> Recipe:
    published, ours = _with_epochs("hsnet", benchmark, backbone, 200)
    batch = {"batch_size": _HSNET_BATCH[benchmark]}
    source = "Min et al., ICCV 2021"
    return _made(source, benchmark, backbone, {**_HSNET, **batch, **published}, ours)


def _sccan(benchmark: str, backbone: str, shots: int) -> Recipe:
    views = {"pascal5i": "sccan", "coco20i": "sccan-coco"}[benchmark]
    published: dict[str, Any] = {"augment": views, "shots": (shots,), "small_queries": True, "seed": 321}
    published["epochs"] = {"pascal5i": 200, "coco20i": 50}[benchmark]
    # 75 epochs without a better checkpoint end the run; on COCO validations are half an epoch apart.
    published |= {"patience": 75} if benchmark == "pascal5i" else {"validate_every": 0.5, "patience": 150}
    source = "Xu et al., ICCV 2023"
    return _made(source, benchmark, backbone, {**_SCCAN, **published}, {})


def _with_epochs(method: str, benchmark: str, backbone: str, otherwise: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Epochs as a published and as one of our own fields; the other is empty."""
    if benchmark != "coco20i":
        return {}, {"epochs": otherwise}
    epochs = {"epochs": _COCO_EPOCHS[method]}
    return (epochs, {}) if backbone == "swin_b" else ({}, epochs)


def _made(source: str, benchmark: str, backbone: str, published: _Fields, ours: _Fields) -> Recipe:
    (shots,) = published["shots"]
    name = f"{published['method']}-{benchmark}-{backbone}" + (f"-{shots}shot" if shots > 1 else "")
    sccan = published["method"] == "sccan"
    as_released: dict[str, Any] = {
        "queries": "images" if sccan else _QUERIES[benchmark],
        "validate_on": "test",
        "validation_episodes": 4000 if sccan and benchmark == "coco20i" else _TESTED[benchmark],
    }
    episodes = (_SCCAN_EPISODES if sccan else _EPISODES)[benchmark]
    validation = {"validation_classes": (_VALIDATION_CLASSES[benchmark],)}  # with validate_on base
    return Recipe(
        name, source, benchmark, {**published, **as_released, "backbone": backbone}, {**ours, **validation}, episodes
    )


def _all() -> Iterator[Recipe]:
    for benchmark in ("pascal5i", "coco20i", "fss1000"):
        for backbone in ("resnet50", "resnet101", "swin_b"):
            yield _dcama(benchmark, backbone)
            yield _hsnet(benchmark, backbone)
            if benchmark != "fss1000" and backbone != "swin_b":
                yield from (_sccan(benchmark, backbone, shots) for shots in (1, 5))


RECIPES: Final[dict[str, Recipe]] = {recipe.name: recipe for recipe in _all()}
"""Recipes by name."""


_FOUNDATION: Final[_Fields] = {
    "pretrained": True,
    "train_backbone": False,
    "image_size": 448,  # whole patches of 14 and of 16
    "cached_views": 1,  # the backbone is most of a step: once an image instead
    "augment": "none",
    "optimiser": "adamw",
    "lr": 1e-4,
    "clip_grad": 1.0,
    "batch_size": 8,
    "epochs": 30,
    "shots": (1,),
}
_FOUNDATION_METHODS: Final[dict[str, _Fields]] = {
    "dcama": {},
    "dcama_light": {"loss": "ce+dice"},
    "hsnet": {},
    "prototype": {"model_kwargs": ("learned=True",)},
    "sccan": {"loss": "dice"},
}


def _foundation() -> Iterator[Recipe]:
    for method, own in _FOUNDATION_METHODS.items():
        for backbone in (f"{family}-{size}" for family in ("dinov2", "dinov3") for size in ("small", "base", "large")):
            fields = {**_FOUNDATION, **own, "method": method, "backbone": backbone}
            yield Recipe(f"{method}/{backbone}", "ours, not measured", "", {}, fields, (2000,))


FOUNDATION_RECIPES: Final[dict[str, Recipe]] = {recipe.name: recipe for recipe in _foundation()}
"""Recipes for any data over foundation models, by name."""


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; raises `InvalidOption` with the nearest known names."""
    known = RECIPES | FOUNDATION_RECIPES
    if name not in known:
        raise unknown("recipe", name, known)
    return known[name]


def remark(name: str, value: Any, recipe: Recipe | None) -> str:
    """What a comment says beside a field of `TrainConfig`: whether the value is not the recipe's paper's."""
    if recipe is None:
        return ""
    if name == "episodes_per_epoch":
        return "" if value in recipe.episodes else "changed"
    if name in recipe.published:
        return "" if value == recipe.published[name] else f"changed, the recipe: {recipe.published[name]!r}"
    if name in recipe.ours:
        return "ours" if value == recipe.ours[name] else "changed"
    return ""
