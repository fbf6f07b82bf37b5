"""The choices of DCAMA with the light decoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fewseg.core.errors import InvalidOption
from fewseg.models.methods.dcama.config import AggregationConfig, check_config


@dataclass(frozen=True)
class DCAMALightConfig(AggregationConfig):
    """Choices of the light method; the defaults are those of the embedded model."""

    attention_scales: tuple[int, ...] = (16, 32)
    """Scales (1/16, ...) at which masks are aggregated; those the backbone lacks are left out."""
    skip_scales: tuple[int, ...] = (4, 8)
    """Scales whose last maps join the decoder, two at least; those the backbone lacks are left out."""
    heads: int = 1
    """Attention heads at every scale."""
    dropout: float = 0.0
    """Dropout on the tokens and on the attention weights, in training."""
    attention: Literal["dot", "cosine"] = "cosine"
    """Cosine attention with a learnt temperature, or the paper's scaled dot product."""
    identity_start: bool = True
    """Initialise the projections to the identity instead of at random."""
    position_weight: float = 0.0
    """Factor on the position encoding; with 0 attention depends on features alone."""
    refinement_steps: int = 2
    """Refinement steps: each corrects the logits by how similar the query's tokens are to the foreground found so
    far."""
    boundary_refinement: bool = True
    """Align mask boundaries with the edges of the image by a guided filter."""


def check_light_config(config: DCAMALightConfig) -> None:
    """Raise `InvalidOption` for values that mean nothing."""
    check_config(config)
    if type(config.refinement_steps) is not int or config.refinement_steps < 0:
        raise InvalidOption(f"refinement_steps {config.refinement_steps!r}: give a whole number of at least 0")
