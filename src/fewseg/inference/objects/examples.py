"""What one example of a label says of its objects: measures of its regions, kept with the example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewseg.inference.objects.hierarchy import narrowest_neck
from fewseg.inference.objects.regions import EIGHT, border_share, is_net, pieces, solidity
from fewseg.inference.objects.separate import separate
from fewseg.inference.objects.shape import LEAST, ObjectShape

_MOST: Final = 300
"""Objects of an example that are measured."""
_PARTS: Final = ("part_areas", "part_solidities")


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
    border: float
    """Share of a side of the image along which the mask runs, the largest of the four; 0 for instance maps."""
    net: bool
    """Whether the mask is a net of lines, as cracks and roads are."""
    part_areas: tuple[int, ...] = ()
    """Pixels of each convex part of the regions, where those may be several objects that touch."""
    part_solidities: tuple[float, ...] = ()
    """Share of its convex hull that each covers."""

    @classmethod
    def of(cls, mask: NDArray[Any], instances: NDArray[np.int32] | None = None) -> ExampleObjects:
        """Of a mask (H, W) that is 1 where the label is, or of an instance map (H, W), 0 for the background."""
        inside = mask == 1
        numbered = ndimage.label(inside, EIGHT)[0] if instances is None else instances
        found = _some_regions(numbered)
        parts = [] if instances is not None else _some_regions(separate(inside, ObjectShape()))
        return cls(
            (mask.shape[1], mask.shape[0]),
            tuple(int(np.count_nonzero(region)) for region in found),
            tuple(round(solidity(region), 4) for region in found),
            tuple(round(narrowest_neck(region), 4) for region in found),
            instances is not None,
            round(border_share(inside), 4) if instances is None else 0.0,
            instances is None and is_net(inside),
            tuple(int(np.count_nonzero(part)) for part in parts),
            tuple(round(solidity(part), 4) for part in parts),
        )

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def from_json(cls, about: Mapping[str, Any]) -> ExampleObjects:
        """Raises `LookupError`, `TypeError` or `ValueError` for what `as_json` did not make."""
        numbers = {key: tuple(about[key]) for key in ("size", "areas", "solidities", "necks", *_PARTS)}
        if not all(isinstance(v, (int, float)) and 0 < v < 1e12 for values in numbers.values() for v in values):
            raise ValueError("measures of objects that are no positive numbers")
        lengths = {len(numbers[key]) for key in ("areas", "solidities", "necks")}
        parts = {len(numbers[key]) for key in _PARTS}
        if len(numbers["size"]) != 2 or len(lengths) != 1 or len(parts) != 1:
            raise ValueError("incomplete measures of objects")
        if not all(isinstance(about[key], bool) for key in ("instances", "net")):
            raise TypeError("measures of objects of an unknown kind")
        return cls(**numbers, instances=about["instances"], border=float(about["border"]), net=about["net"])


def _some_regions(numbered: NDArray[Any]) -> list[NDArray[np.bool_]]:
    """Masks of regions that are large enough to have a shape, `_MOST` of them at most, evenly chosen."""
    found = [region for _, _, region in pieces(numbered) if np.count_nonzero(region) >= LEAST]
    return [found[i] for i in np.linspace(0, len(found) - 1, min(len(found), _MOST)).astype(int)]
