"""What a run of the measurements is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from fewseg.core.devices import PRECISIONS, choose_device
from fewseg.core.errors import InvalidOption, unknown
from fewseg.tools.bench.cases import MODELS, find_model
from fewseg.tools.bench.timing import CLOCKS, Clock
from fewseg.tools.bench.ways import LEVELS, Level

PARTS: Final[dict[str, str]] = {
    "queries": "the straightforward way and ours side by side: op, head and whole query, time and memory",
    "implementations": "every implementation of DCAMA's aggregation that this device has",
    "curves": "time and memory against shots, input size and labels",
    "training": "a step of training, one shot in float32, and the maps of a frozen backbone kept",
    "accuracy": "mIoU against precision and against the support-token budget; needs --data",
}
"""Every part with its description, in the order of the tables."""


@dataclass(frozen=True)
class Manner:
    """What is the same for a quick run and a whole one."""

    levels: tuple[Level, ...] = LEVELS
    """op: what compares query and support; head: all behind the backbone; query: from image to logits."""
    size: int | None = None
    """Side of the input in pixels; each model's own if not given."""
    clock: Clock = "wall"
    """wall, or cpu: what this process computed, for a machine that others use; then use one thread."""
    memory: bool = True
    """Measure peak memory too, each way in a process of its own."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""
    threads: int = 0
    """Threads of torch; 0 leaves them as they are."""


@dataclass(frozen=True)
class BenchSettings(Manner):
    """What is measured, and how; the defaults are the tables of the documentation."""

    models: tuple[str, ...] = tuple(MODELS)
    """Models to measure."""
    shots: tuple[int, ...] = (1, 5, 10)
    """Numbers of support images."""
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    """Precisions, of both ways; training is measured in float32 alone."""
    repeats: int = 5
    """Rounds, in each of which every way runs."""

    def __post_init__(self) -> None:
        """Raises `InvalidOption` for what cannot be measured."""
        for name in self.models:
            find_model(name)
        for precision in self.precisions:
            if precision not in PRECISIONS:
                raise unknown("precision", precision, PRECISIONS)
        for level in self.levels:
            if level not in LEVELS:
                raise unknown("level", level, LEVELS)
        if self.clock not in CLOCKS:
            raise unknown("clock", self.clock, CLOCKS)
        for what in ("models", "shots", "precisions", "levels"):
            if not getattr(self, what):
                raise InvalidOption(f"no {what} to measure: give at least one, or leave --{what} out")
        if min(self.shots) < 1 or self.repeats < 1 or self.threads < 0:
            raise InvalidOption(
                f"shots {' '.join(map(str, self.shots))}, repeats {self.repeats}, threads {self.threads}: "
                "give at least 1, 1 and 0"
            )
        if self.size is not None and (self.size < 32 or self.size % 32):
            raise InvalidOption(f"size {self.size}: give a multiple of 32 pixels, e.g. 384")

    @property
    def torch_device(self) -> torch.device:
        """Where it is measured; raises `InvalidOption` for a device that is not there."""
        return choose_device(self.device)

    @property
    def dtypes(self) -> dict[str, torch.dtype]:
        """Precision to dtype."""
        return {name: PRECISIONS[name] for name in self.precisions}

    def lasting(self) -> dict[str, Any]:
        """What has to be the same in a run that goes on with another: it changes numbers, not which are measured."""
        return {"repeats": self.repeats, "clock": self.clock, "size": self.size}


QUICK: Final = BenchSettings(models=("embedded",), shots=(5,), repeats=3)
"""What `--quick` measures."""
