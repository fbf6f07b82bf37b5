"""The choices of FoRIS."""

from __future__ import annotations

from dataclasses import dataclass

from fewseg.core.errors import InvalidOption
from fewseg.models.methods.insid3.config import TokenConfig


@dataclass(frozen=True)
class FoRISConfig(TokenConfig):
    """FoRIS's choices; the defaults are the release's. Its other constants stand where they are used."""

    temperature: float = 8.0
    """Factor on the logits; moves probabilities, never the mask."""
    debias_below: float = 0.8
    """The positional part is removed where the support's foreground is less similar than this to the query's mean
    token; 2 always removes it, -1 never."""
    colour_weight: float = 0.35
    """Weight of a patch's colour beside its token in the first clustering of the query."""
    position_weight: float = 0.2
    """Weight of a patch's place there."""


def check_foris_config(config: FoRISConfig) -> None:
    """Raise `InvalidOption` for values that mean nothing."""
    for name in ("colour_weight", "position_weight"):
        if not 0 <= getattr(config, name) < float("inf"):
            raise InvalidOption(f"{name} {getattr(config, name)!r}: give a finite number of at least 0")
    if not -1 <= config.debias_below <= 2:
        raise InvalidOption(f"debias_below {config.debias_below!r}: give a cosine; 2 always debiases, -1 never")
