"""The choices that SCCAN leaves open, and which of them mean something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from fewseg.core.bounds import MOST_AT_ONCE, check_number
from fewseg.core.errors import InvalidOption, unknown
from fewseg.models.methods.base import check_image_size
from fewseg.models.ops.window_attention import WindowImplementation


@dataclass(frozen=True)
class SCCANConfig:
    """SCCAN's choices; the defaults are the published ones."""

    image_size: int = 473
    """Side of the square input, pixels."""
    feature_size: int | None = None
    """Side of the square grid that maps are resized to; None: 1/8 of the image, rounded up to whole windows (64)."""
    width: int = 256
    """Channels of the features, the attention and the head."""
    blocks: int = 8
    """Attention blocks."""
    heads: int = 8
    """Attention heads."""
    window: int = 8
    """Side of a window, tokens."""
    mlp_ratio: float = 1.0
    """Hidden width of the blocks' MLPs, in widths."""
    shift: bool = True
    """Whether every second block's windows are shifted by half a window."""
    align: bool = True
    """Patch alignment: each query window looks at the most similar support window; off: at the one in its place."""
    cosine: bool = True
    """Scaled cosine: the support half is compared by cosine; off: by scaled dot product like the query half."""
    self_calibrated: bool = True
    """Whether a query window's own tokens are among its keys and values."""
    prior: bool = True
    """Whether the cosine prior of the deepest maps is given to the query."""
    dropout: float = 0.5
    """Dropout of whole channels of the reduced features, in training."""
    head_dropout: float = 0.1
    """Dropout of whole channels before the last convolution, in training."""
    alike_start: bool = False
    """Ours: begin with the same reductions for queries and supports, and the prior drawn as if it came alone. From a
    start at random, little data does not teach to compare."""
    implementation: WindowImplementation = "auto"
    """How windows attend: `reference` materialises the scores, `streaming` never does, `auto` chooses by device."""


def check_config(config: SCCANConfig) -> None:
    """Raise `InvalidOption` for values that mean nothing."""
    if config.implementation not in get_args(WindowImplementation):
        raise unknown("implementation", str(config.implementation), get_args(WindowImplementation))
    check_image_size(config.image_size)
    for name in ("feature_size", "width", "blocks", "heads", "window"):
        value = getattr(config, name)
        if (type(value) is not int or value < 1) and (name, value) != ("feature_size", None):
            raise InvalidOption(f"{name} {value!r}: give a whole number of at least 1")
        check_number(name, value or 0, MOST_AT_ONCE)
    if config.width % config.heads:
        raise InvalidOption(f"width {config.width} is not a multiple of heads {config.heads}: change one")
    if config.feature_size is not None and config.feature_size % config.window:
        raise InvalidOption(
            f"feature_size {config.feature_size} is not a multiple of window {config.window}: change one"
        )
    if config.shift and config.window % 2:
        raise InvalidOption(f"window {config.window} cannot be shifted by half: give an even one, or shift=False")
    if config.mlp_ratio * config.width < 1:
        raise InvalidOption(f"mlp_ratio {config.mlp_ratio} leaves no hidden channels: give a larger one")
    for name in ("dropout", "head_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise InvalidOption(f"{name} {getattr(config, name)}: give a value from 0 to below 1")
