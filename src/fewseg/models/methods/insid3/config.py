"""The choices of INSID3, and those that it shares with methods built on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fewseg.core.errors import InvalidOption
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.base import check_image_size

PUBLISHED_RANK = 500 / 1024
"""Rank of the positional subspace by channels: 500 of ViT-L's 1024; of other widths none is published."""


@dataclass(frozen=True)
class TokenConfig:
    """Choices of a method that compares the last tokens of a backbone; the defaults are the release's."""

    image_size: int = 1024
    """Side of the square input, pixels: a multiple of the patch."""
    svd_components: int | None = None
    """Rank of the positional subspace that is removed; None is 500 of 1024 channels."""
    tau: float = 0.6
    """Mean cosine similarity from which tokens of an image are of one cluster."""
    block: int = -1
    """Block whose tokens are compared; the final norm follows in any case."""
    temperature: float = 6.0
    """Factor on the logits; moves probabilities, never the mask."""


@dataclass(frozen=True)
class INSID3Config(TokenConfig):
    """INSID3's choices."""

    merge_threshold: float = 0.2
    """Score above which a cluster is foreground."""


def check_config(config: TokenConfig, backbone: FeaturePyramid) -> int:
    """The rank of the positional subspace; raises `InvalidOption` for values that mean nothing."""
    check_image_size(config.image_size)
    if type(config.block) is not int or not -len(backbone.blocks) <= config.block < len(backbone.blocks):
        raise InvalidOption(f"block {config.block!r}: {backbone.name} has blocks 0 to {len(backbone.blocks) - 1}")
    if not -1 <= config.tau <= 1:
        raise InvalidOption(f"tau {config.tau!r}: give a cosine, from -1 to 1")
    if not (config.temperature > 0 and math.isfinite(config.temperature)):
        raise InvalidOption(f"temperature {config.temperature}: give a finite number above 0")
    channels = backbone.blocks[config.block].channels
    rank = config.svd_components
    if rank is None:
        return round(channels * PUBLISHED_RANK)
    if type(rank) is not int or not 0 <= rank < channels:
        # All channels removed, what is left are rounding errors: plausible masks of nothing.
        raise InvalidOption(
            f"svd_components {rank!r}: {backbone.name} has {channels} channels there, give a whole number below that"
        )
    return rank
