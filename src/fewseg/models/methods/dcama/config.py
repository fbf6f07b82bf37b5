"""The choices that DCAMA leaves open, and which of them mean something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from fewseg.core.bounds import MOST_AT_ONCE, check_number
from fewseg.core.errors import InvalidOption, unknown
from fewseg.models.methods.base import check_image_size
from fewseg.models.ops.mask_aggregation import Implementation

SCALES = (2, 4, 8, 16, 32, 64)
"""Scales that a pyramid can have."""


@dataclass(frozen=True)
class AggregationConfig:
    """Choices of the mask aggregation; the defaults are the published ones."""

    image_size: int = 384
    """Side of the square input, pixels."""
    attention_scales: tuple[int, ...] = (8, 16, 32)
    """Scales (1/8, ...) at which masks are aggregated (Table S4); those the backbone lacks are left out."""
    skip_scales: tuple[int, ...] = (4, 8)
    """Scales whose last maps join the decoder (Table S3); those the backbone lacks are left out."""
    heads: int = 8
    """Attention heads at every scale."""
    support_pixel_budget: int | None = None
    """Foreground and, separately, background tokens that each shot and scale is normalised to (600 in Table S5)."""
    dropout: float = 0.5
    """Dropout on the tokens and on the attention weights, in training."""
    attention: Literal["dot", "cosine"] = "dot"
    """Scaled dot product (published), or cosine with a learnt temperature (ours, for small backbones)."""
    identity_start: bool = False
    """Initialise the projections to the identity instead of at random (ours; goes with cosine)."""
    position_weight: float = 1.0
    """Factor on the position encoding; 0 leaves it out, so that attention depends on features alone (ours)."""
    implementation: Implementation = "auto"
    """How masks are aggregated: `auto` chooses by device, precision and size; `reference` materialises the scores, the
    others never do: see `fewseg.models.ops.mask_aggregation.aggregate_masks`."""


@dataclass(frozen=True)
class DCAMAConfig(AggregationConfig):
    """DCAMA's choices; the defaults are the published ones."""

    skip_support: bool = True
    """Whether the support's maps join the decoder beside the query's (Table S5)."""
    use_background: bool = True
    """Whether background support features take part in the attention; off zeroes them (Table 3)."""
    class_balanced: bool = False
    """Class-balanced attention: weigh foreground and background of the support alike, however few of its pixels are
    foreground, and give the decoder's last stage the aggregated masks as log-odds too, past all norms (ours)."""


def check_config(config: AggregationConfig) -> None:
    """Raise `InvalidOption` for values that mean nothing."""
    for name, known in (("attention", ("dot", "cosine")), ("implementation", get_args(Implementation))):
        if getattr(config, name) not in known:
            raise unknown(name, str(getattr(config, name)), known)
    for name in ("attention_scales", "skip_scales"):
        wrong = [s for s in getattr(config, name) if s not in SCALES]
        if wrong:
            raise InvalidOption(f"{name} has {wrong}: choose among {', '.join(map(str, SCALES))}")
    if config.support_pixel_budget is not None and config.support_pixel_budget < 1:
        raise InvalidOption(f"support_pixel_budget {config.support_pixel_budget}: give at least 1, or None for all")
    check_image_size(config.image_size)
    check_number("heads", config.heads, MOST_AT_ONCE)
    if config.heads < 1 or not 0 <= config.dropout < 1:
        raise InvalidOption(
            f"heads {config.heads}, dropout {config.dropout}: expected at least 1, and from 0 to below 1"
        )
