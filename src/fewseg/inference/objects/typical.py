"""What the examples of a label say of its objects: their size, convexity and necks, and whether it has any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.objects import Kind
from fewseg.inference.objects.examples import ExampleObjects
from fewseg.inference.objects.shape import CONVEX, ObjectShape

_CONVEX_SHARE: Final = 0.3
"""Share of convex regions among those of the examples from which the others are taken for objects that touch."""
_BORDER: Final = 0.4
_SURE_BORDER: Final = 0.6
"""Share of a side of the image from which a mask along it is one of stuff, and that for one or two examples."""
_CLUMP: Final = 10
"""Convex parts of each region from which regions are taken for clumps, however alike they are."""


def typical_object(examples: Sequence[ExampleObjects | None], kind: Kind | None = None) -> ObjectShape:
    """The typical object of a label by its examples; `kind` in place of what they look like."""
    known = [example for example in examples if example is not None]
    least = _BORDER if len(known) >= 3 else _SURE_BORDER  # one object may be cut as well
    stuff = sum(example.net or example.border >= least for example in known) * 2 > len(known)
    chosen: Kind = kind or ("stuff" if stuff else "thing")
    table = _single(known)
    count = len(table.areas)
    if not count:
        return ObjectShape(kind=chosen)
    middle, spread, between = _sizes(table)
    convexity, loose = _robust(table.solidities)
    return ObjectShape(
        chosen,
        float(count),
        middle,
        max(0.3, math.hypot(spread, 1.5 / count)),
        between,
        float(np.median(table.images)),
        convexity,
        math.sqrt((count * loose**2 + 10 * 0.04**2) / (count + 10)) + 0.15 / count,
        float(np.clip(np.quantile(table.necks, 0.1), 0.5, 0.97)),
    )


@dataclass(frozen=True)
class _Table:
    """Measures of regions that are single objects, in order."""

    areas: NDArray[np.float64]
    solidities: NDArray[np.float64]
    necks: NDArray[np.float64]
    images: NDArray[np.float64]
    """Logarithm of the pixels of its image."""
    examples: NDArray[np.float64]
    """Number of its example."""


def _single(known: Sequence[ExampleObjects]) -> _Table:
    """Regions that are single objects: all of instance maps, and of other masks all unless some touch.

    Where many are convex, those that are not are taken for several objects that touch. Where few are, as all touch, the
    convex parts are taken for the objects, if they are far more alike in size than the regions are.
    """
    rows = [
        (area, solid, neck, math.log(example.size[0] * example.size[1]), number, example.instances)
        for number, example in enumerate(known)
        for area, solid, neck in zip(example.areas, example.solidities, example.necks, strict=True)
    ]
    parts = [
        (area, solid, 1.0, math.log(example.size[0] * example.size[1]), number, False)
        for number, example in enumerate(known)
        for area, solid in zip(example.part_areas, example.part_solidities, strict=True)
    ]
    table, apart = (np.array(found, np.float64).reshape(-1, 6) for found in (rows, parts))
    sure, convex = table[:, 5] == 1, table[:, 1] >= CONVEX
    drawn = table[~sure]
    if len(drawn) and convex[~sure].mean() >= _CONVEX_SHARE:
        table = table[sure | convex]
    elif len(drawn) and len(apart) >= 1.5 * len(drawn) and _are_clumps(drawn, apart):
        table = np.concatenate([table[sure], apart])
    return _Table(*table.T[:5])


def _are_clumps(drawn: NDArray[np.float64], parts: NDArray[np.float64]) -> bool:
    """Whether regions are clumps of objects, which their parts are."""
    if float(np.median(parts[:, 1])) < CONVEX:
        return False
    alike = _robust(np.log(parts[:, 0]))[1]
    return len(parts) >= _CLUMP * len(drawn) or float(np.log(drawn[:, 0]).std()) > 1.5 * max(alike, 0.2)


def _sizes(table: _Table) -> tuple[float, float, float]:
    """Median logarithm of areas, its spread within images, and that of its median between them."""
    logs = np.log(table.areas)
    medians = {number: float(np.median(logs[table.examples == number])) for number in np.unique(table.examples)}
    inner = logs - np.array([medians[number] for number in table.examples])
    spread = 1.4826 * float(np.median(np.abs(inner))) if len(logs) > len(medians) else _robust(logs)[1]
    between = _robust(np.array(list(medians.values())))[1]
    n = len(medians)
    return float(np.median(logs)), spread, math.sqrt((n * between**2 + 3 * 0.5**2) / (n + 3))


def _robust(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median, and the standard deviation that the median of distances to it stands for."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))
