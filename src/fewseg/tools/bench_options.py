"""Choices of `fewseg bench`; nothing here needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

PARTS: Final[dict[str, str]] = {
    "queries": "the baseline implementation and fewseg's side by side: op, head and whole query, time and memory",
    "implementations": "every implementation of DCAMA's aggregation that this device has",
    "curves": "time and memory against shots, input size and labels",
    "training": "a step of training, one shot in float32, and with the feature cache of a frozen backbone",
    "accuracy": "mIoU against precision and against the support-token budget; needs --data",
}
"""Every part with its description, in the order of the tables."""

Level = Literal["op", "head", "query"]
"""`op`: what compares query and support, of all blocks; `head`: all behind the backbone; `query`: image to logits."""

LEVELS: Final[tuple[Level, ...]] = ("op", "head", "query")

Clock = Literal["wall", "cpu"]
"""`wall` is what a user waits; `cpu` is what this process computed, for one thread on a machine that is shared."""

BUDGETS: Final = (16, 32, 64, 128, 256, 600)
"""Foreground tokens, and as many of the background, that each shot and scale is cut to; 600 is the paper's."""


@dataclass(frozen=True, kw_only=True)
class MeasuringOptions:
    """How a run measures, quick or whole."""

    levels: tuple[Level, ...] = LEVELS
    """op: what compares query and support; head: all behind the backbone; query: from image to logits."""
    size: int | None = None
    """Side of the input in pixels; each model's own if not given."""
    clock: Clock = "wall"
    """wall, or cpu: what this process computed, for a machine that others use; then use one thread."""
    memory: bool = True
    """Measure peak memory too, each variant in a process of its own."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    threads: int = 0
    """Threads of torch; 0 leaves them as they are."""
