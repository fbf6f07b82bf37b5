"""Settings of a benchmark run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from fewseg.core.devices import PRECISIONS, choose_device
from fewseg.core.errors import InvalidOption, unknown
from fewseg.tools.bench_options import LEVELS, MeasuringOptions
from fewseg_bench.models import MODELS, bench_model
from fewseg_bench.timing import CLOCKS


@dataclass(frozen=True, kw_only=True)
class BenchSettings(MeasuringOptions):
    """What is measured, and how; the defaults are the tables of the documentation."""

    models: tuple[str, ...] = tuple(MODELS)
    """Models to measure."""
    shots: tuple[int, ...] = (1, 5, 10)
    """Numbers of support images."""
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    """Precisions, of both variants; training is measured in float32 alone."""
    repeats: int = 5
    """Rounds, in each of which every variant runs."""

    def __post_init__(self) -> None:
        """Raises `InvalidOption` for what cannot be measured."""
        for name in self.models:
            bench_model(name)
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
