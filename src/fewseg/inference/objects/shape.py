"""What the examples of a label say of its objects: their size, convexity and necks, and whether it has any."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewseg.core.objects import Kind
from fewseg.inference.objects.hierarchy import narrowest_neck
from fewseg.inference.objects.regions import EIGHT, looks_like_stuff, pieces, solidity

LEAST: Final = 12
"""Pixels below which a region has no shape."""
CONVEX: Final = 0.9
"""Solidity from which a region counts as one object where labels are of convex objects."""

_MOST: Final = 300
"""Objects of an example that are measured."""
_CONVEX_SHARE: Final = 0.3
"""Share of convex regions among those of the examples from which the others are taken for objects that touch."""


@dataclass(frozen=True)
class ExampleObjects:
    """The regions of one example's mask: objects where it is an instance map, else perhaps several that touch."""

    size: tuple[int, int]
    """(width, height) of the example."""
    areas: tuple[int, ...]
    """Pixels of each."""
    solidities: tuple[float, ...]
    """Share of its convex hull that each covers."""
    necks: tuple[float, ...]
    """Narrowest neck within each, relative to the smaller of the parts that it joins; 1 without any."""
    instances: bool
    """Whether every one is an object."""
    stuff: bool
    """Whether they look like stuff."""

    @classmethod
    def of(cls, mask: NDArray[Any], instances: NDArray[np.int32] | None = None) -> ExampleObjects:
        """Of a mask (H, W) that is 1 where the label is, or of an instance map (H, W), 0 for the background."""
        inside = mask == 1
        numbered = ndimage.label(inside, EIGHT)[0] if instances is None else instances
        found = [region for _, _, region in pieces(numbered) if np.count_nonzero(region) >= LEAST]
        found = [found[i] for i in np.linspace(0, len(found) - 1, min(len(found), _MOST)).astype(int)]
        return cls(
            (mask.shape[1], mask.shape[0]),
            tuple(int(np.count_nonzero(region)) for region in found),
            tuple(round(solidity(region), 4) for region in found),
            tuple(round(narrowest_neck(region), 4) for region in found),
            instances is not None,
            instances is None and looks_like_stuff(inside),
        )

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> ExampleObjects:
        """Raises `LookupError`, `TypeError` or `ValueError` for what `as_json` did not make."""
        numbers = {key: tuple(about[key]) for key in ("size", "areas", "solidities", "necks")}
        if not all(isinstance(v, (int, float)) and 0 < v < 1e12 for values in numbers.values() for v in values):
            raise ValueError("measures of objects that are no positive numbers")
        lengths = {len(numbers[key]) for key in ("areas", "solidities", "necks")}
        if len(numbers["size"]) != 2 or len(lengths) != 1:
            raise ValueError("incomplete measures of objects")
        if not all(isinstance(about[key], bool) for key in ("instances", "stuff")):
            raise TypeError("measures of objects of an unknown kind")
        return cls(**numbers, instances=about["instances"], stuff=about["stuff"])


@dataclass(frozen=True)
class ObjectShape:
    """The typical object of a label; as it is, that of a label of which nothing is known."""

    kind: Kind = "thing"
    count: float = 0.0
    """Objects that were seen."""
    log_area: float = math.nan
    """Logarithm of the median area in pixels; NaN where none was seen."""
    area_spread: float = 0.7
    """Standard deviation of that logarithm."""
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
        stuff = sum(example.stuff for example in known) * 2 > len(known)
        chosen: Kind = kind or ("stuff" if stuff else "thing")
        areas, solidities, necks, images = _single(known)
        if not len(areas):
            return cls(kind=chosen)
        logs, count = np.log(areas), len(areas)
        middle, spread = _robust(logs)
        convexity, loose = _robust(solidities)
        return cls(
            chosen,
            float(count),
            middle,
            max(0.4, math.hypot(spread, 1.5 / count)),
            float(np.median(images)),
            convexity,
            math.sqrt((count * loose**2 + 10 * 0.04**2) / (count + 10)) + 0.15 / count,
            float(np.clip(np.quantile(necks, 0.1), 0.5, 0.97)),
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

        Sizes are in pixels; between images of different sizes they say less, which may be copies at another scale.
        Convex regions of the image itself count as objects that were seen, less than those of the examples.
        """
        shape = self
        if self.sized:
            scale = math.log(pixels) - self.image_area
            shape = replace(self, area_spread=math.hypot(self.area_spread, scale / 4))
        if self.solidity < CONVEX - 0.02:
            return shape
        own = np.log(areas[(areas >= LEAST) & (solidities >= self.solidity - self.solidity_spread)])
        if len(own) < (1 if self.sized else 5):
            return shape
        here = float(np.median(own))
        known = here if not self.sized else shape.log_area + (here - shape.log_area) * len(own) / (len(own) + 20)
        return replace(shape, log_area=known, count=shape.count + len(own) / 2)

    def scaled(self, factor: float) -> ObjectShape:
        """The shape in an image that is larger by `factor`."""
        return replace(self, log_area=self.log_area + 2 * math.log(factor))

    def fit(self, area: float, hull: float) -> float:
        """How well a region of this area, and of this area of its convex hull, fits, in (0, 1]."""
        below = max(0.0, self.solidity - area / hull) / self.solidity_spread
        beside = (math.log(area) - self.log_area) / self.area_spread if self.sized else 0.0
        return math.exp(-0.5 * (below**2 + beside**2))


def _single(known: Sequence[ExampleObjects]) -> tuple[NDArray[np.float64], ...]:
    """Areas, solidities, necks, and logarithms of the images' areas, of regions that are single objects.

    Regions of masks that are no instance maps are, unless many are convex: then those that are not are taken for
    several objects that touch.
    """
    rows = [
        (area, solid, neck, math.log(example.size[0] * example.size[1]), example.instances)
        for example in known
        for area, solid, neck in zip(example.areas, example.solidities, example.necks, strict=True)
    ]
    table = np.array(rows, np.float64).reshape(-1, 5)
    sure, convex = table[:, 4] == 1, table[:, 1] >= CONVEX
    if convex[~sure].mean() >= _CONVEX_SHARE if (~sure).any() else False:
        table = table[sure | convex]
    return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


def _robust(values: NDArray[np.float64]) -> tuple[float, float]:
    """Median, and the standard deviation that the median of distances to it stands for."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))
