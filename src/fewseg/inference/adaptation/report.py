"""What an adaptation brought, measured on the examples themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

CURVE_FROM: Final = 6
"""Examples from which there is a learning curve."""

WORTH: Final = 0.02
"""Gain of IoU, for twice as many examples, from which more are worth labelling."""


@dataclass(frozen=True)
class Adaptation:
    """How well a label's examples are predicted from each other, before and after fitting to them.

    Expect that IoU, give or take `spread`, on further images like the examples; it says nothing of others.
    """

    label: str
    examples: int
    """Images that were taught."""
    adapted: bool
    """Whether what was fitted is used; else the model goes on as it was taught."""
    iou_before: float
    """Mean IoU over the examples, each segmented by the model as taught with the others; NaN where nothing was
    fitted: with one example, or without background in any."""
    iou_after: float
    """The same for what is now used; every choice was made without the example that it is measured on."""
    per_image: tuple[tuple[float, float], ...]
    """IoU before and after, of every example in order of teaching."""
    seconds: float
    """Time that it took."""
    curve: tuple[tuple[int, float], ...] = ()
    """Where it was asked for: numbers of examples, and the mean IoU on others of networks fitted to so many."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Adaptation:
        """What `dataclasses.asdict` gave, read from JSON; raises `LookupError`, `TypeError` or `ValueError` if not."""
        per_image = tuple((float(before), float(after)) for before, after in values["per_image"])
        curve = tuple((int(count), float(iou)) for count, iou in values.get("curve", ()))
        return cls(**{**values, "per_image": per_image, "curve": curve})

    @property
    def expected_iou(self) -> float:
        """Mean IoU to expect of what is now used: that after fitting, or before where the fit is not used."""
        return self.iou_after if self.adapted else self.iou_before

    @property
    def spread(self) -> float:
        """Half the width of the 95 % interval of `expected_iou`, from its variation between examples; NaN with one."""
        values = [after if self.adapted else before for before, after in self.per_image]
        if len(values) < 2:
            return math.nan
        mean = sum(values) / len(values)
        return 1.96 * math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values))

    def curve_lines(self) -> list[str]:
        """The learning curve as lines, with what the last doubling of the examples brought."""
        lines = [f"{count:>4} examples: IoU {iou:.2f}" for count, iou in self.curve]
        if len(self.curve) < 2:
            return [f"{self.label}: for a learning curve label {CURVE_FROM} images or more"]
        (count, iou), (last, best) = self.curve[-2:]
        doubled = (best - iou) / math.log2(last / count)
        advice = "more labels would help" if doubled > WORTH else "more labels like these would hardly help"
        return [
            f"{self.label}, networks fitted to so many examples, on the others:",
            *lines,
            f"{advice}: {doubled:+.2f} for twice as many",
        ]

    def __str__(self) -> str:
        """One line: label, examples, IoU before and after, and what was done."""
        count = f"{self.label}: {self.examples} example{'s' if self.examples > 1 else ''}"
        if self.examples < 2:
            return f"{count}; not adapted: that takes at least two"
        if not self.per_image:
            return f"{count}; not adapted: no pixel of them is background"
        if not self.adapted:
            return f"{count}; on each left out in turn IoU {self.iou_before:.2f}; adapting would not improve it"
        change = f"IoU {self.iou_before:.2f} -> {self.iou_after:.2f} (+/- {self.spread:.2f})"
        return f"{count}; on each left out in turn {change}; adapted in {self.seconds:.0f} s"
