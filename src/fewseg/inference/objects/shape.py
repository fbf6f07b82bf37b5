"""What the examples of a label say of its objects: their size, convexity and necks, and whether it has any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.objects import Kind

if TYPE_CHECKING:
    from fewseg.inference.objects.examples import ExampleObjects

LEAST: Final = 12
"""Pixels below which a region has no shape."""
CONVEX: Final = 0.9
"""Solidity from which a region counts as one object where labels are of convex objects."""

_CONVEX_SHARE: Final = 0.3
"""Share of convex regions among those of the examples from which the others are taken for objects that touch."""
_BORDER: Final = 0.4
_SURE_BORDER: Final = 0.6
"""Share of a side of the image from which a mask along it is one of stuff, and that for one or two examples."""
_CLUMP: Final = 10
"""Convex parts of each region from which regions are taken for clumps, however alike they are."""


@dataclass(frozen=True)
class ObjectShape:
    """The typical object of a label; as it is, that of a label of which nothing is known."""

    kind: Kind = "thing"
    count: float = 0.0
    """Objects that were seen."""
    log_area: float = math.nan
    """Logarithm of the median area in pixels; NaN where none was seen."""
    area_spread: float = 0.5
    """Standard deviation of that logarithm within an image."""
    image_spread: float = 0.7
    """Standard deviation of its median between images."""
    image_area: float = math.nan
    """Logarithm of the pixels of the images that they were seen in."""
    solidity: float = 0.95
    """Median share of its convex hull that an object covers."""
    solidity_spread: float = 0.04
    neck: float = 0.97
    """Necks narrower than this, relative to the smaller part, are where objects may touch."""

    @classmethod
    def of(cls, examples: Sequence[ExampleObjects | None], kind: Kind | None = None) -> ObjectShape:
        """What examples show; `kind` in place of what they look like."""
        known = [example for example in examples if example is not None]
        least = _BORDER if len(known) >= 3 else _SURE_BORDER  # one object may be cut as well
        stuff = sum(example.net or example.border >= least for example in known) * 2 > len(known)
        chosen: Kind = kind or ("stuff" if stuff else "thing")
        table = _single(known)
        count = len(table.areas)
        if not count:
            return cls(kind=chosen)
        middle, spread, between = _sizes(table)
        convexity, loose = _robust(table.solidities)
        return cls(
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

    @property
    def sized(self) -> bool:
        """Whether a typical size is known."""
        return not math.isnan(self.log_area)

    @property
    def margin(self) -> float:
        """By how much better parts must fit than the whole, the more the fewer objects were seen."""
        return 0.03 + 0.3 / max(self.count, 1.0) if self.sized else 0.1

    def in_image(self, areas: NDArray[np.float64], solidities: NDArray[np.float64], pixels: int) -> ObjectShape:
        """The shape in an image of so many pixels, whose regions have these areas and solidities.

        Sizes are in pixels. Objects are of like size within an image more than between images, so convex regions of the
        image itself say what size they have there.
        """
        if self.solidity < CONVEX - 0.02:
            return self
        own = np.log(areas[(areas >= LEAST) & (solidities >= self.solidity - self.solidity_spread)])
        if not self.sized:
            return self if len(own) < 5 else replace(self, log_area=float(np.median(own)), count=len(own) / 2)
        # The mean of a normal distribution, its prior from the examples; copies at another scale widen that.
        prior = self.image_spread**2 + ((math.log(pixels) - self.image_area) / 4) ** 2
        if not len(own):
            return replace(self, area_spread=math.hypot(self.area_spread, math.sqrt(prior)))
        share = prior / (prior + (self.area_spread**2 + 0.25) / len(own))
        log_area = self.log_area + share * (float(np.median(own)) - self.log_area)
        return replace(self, log_area=log_area, count=self.count + len(own) / 2)

    def scaled(self, factor: float) -> ObjectShape:
        """The shape in an image that is larger by `factor`."""
        return replace(self, log_area=self.log_area + 2 * math.log(factor))

    def fit(self, area: float, hull: float) -> float:
        """How well a region of this area, and of this area of its convex hull, fits, in (0, 1]."""
        below = max(0.0, self.solidity - area / hull) / self.solidity_spread
        beside = (math.log(area) - self.log_area) / self.area_spread if self.sized else 0.0
        return math.exp(-0.5 * (below**2 + beside**2))


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
