"""What adapting a label brought, as the page and the HTTP API send it."""

from __future__ import annotations

import math
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from fewseg.inference.adaptation.report import Adaptation

_EXAMPLE: Final[dict[str, Any]] = {
    "label": "crack",
    "examples": 12,
    "adapted": True,
    "iou_before": 0.31,
    "iou_after": 0.62,
    "expected_iou": 0.62,
    "spread": 0.08,
    "per_image": [[0.3, 0.61]],
    "seconds": 21.4,
    "text": "crack: 12 examples; on each left out in turn IoU 0.31 -> 0.62 (+/- 0.08); adapted in 21 s",
}


class AdaptationReport(BaseModel):
    """What adapting a label to its own examples brought."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})
    label: str
    examples: int = Field(description="Examples that it was fitted to.")
    adapted: bool = Field(description="Whether the fit is used: it predicts examples better that it has not seen.")
    iou_before: float | None = Field(
        description="Mean IoU over the examples, each segmented by the model as taught with the others; null with one."
    )
    iou_after: float | None = Field(description="The same with the fit.")
    expected_iou: float | None = Field(
        description="The IoU to expect, on images like the examples, of what is now used: the one or the other."
    )
    spread: float | None = Field(description="Half the width of the 95 % interval of `expected_iou`.")
    per_image: list[tuple[float, float]] = Field(description="IoU before and after, of every example.")
    seconds: float = Field(description="Time that it took.")
    text: str = Field(description="All of it as one line.")


def describe_adaptation(report: Adaptation) -> dict[str, Any]:
    """The JSON value of a report, see `AdaptationReport`."""
    return {
        "label": report.label,
        "examples": report.examples,
        "adapted": report.adapted,
        "iou_before": _number(report.iou_before),
        "iou_after": _number(report.iou_after),
        "expected_iou": _number(report.expected_iou),
        "spread": _number(report.spread),
        "per_image": [(round(before, 4), round(after, 4)) for before, after in report.per_image],
        "seconds": round(report.seconds, 1),
        "text": str(report),
    }


def _number(value: float) -> float | None:
    """JSON has no number for NaN."""
    return None if math.isnan(value) else round(value, 4)
