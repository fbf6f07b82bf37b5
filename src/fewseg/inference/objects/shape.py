"""The typical object of a label: its size, convexity and necks, and how well a region fits it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.objects import Kind

LEAST: Final = 12
"""Pixels below which a region has no shape."""
CONVEX: Final = 0.9
"""Solidity from which a region counts as one object where labels are of convex objects."""


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
