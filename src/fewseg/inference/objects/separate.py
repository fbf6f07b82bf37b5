"""A label's mask cut into single objects: connected regions first, then those that are several objects that touch.

A region is divided where its parts fit the typical object (`ObjectShape`) better than the whole does: by their
convexity, and by their size where one is known. Of all cuts of the region's tree of necks (`hierarchy`) that is the one
with the best mean fit over its pixels, found from the leaves up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from fewseg.inference.objects.hierarchy import Join, basins_of
from fewseg.inference.objects.regions import EIGHT, hull_of, hull_of_points, pieces
from fewseg.inference.objects.shape import LEAST, ObjectShape

_NOISE: Final = 0.97
"""Basins joined by wider necks than this are one part: steps of pixels."""
_SPECK: Final = 0.02
"""Share of the typical area below which a region within the image is no object of its own."""
_AT_ONCE: Final = 1 << 22
"""Pixels that are numbered anew together."""
_LARGEST: Final = 1 << 18
"""Pixels of a region's box above which it is divided at a smaller scale."""


def separate(mask: NDArray[np.bool_], shape: ObjectShape) -> NDArray[np.int32]:
    """The instance map (H, W) of a mask: 0 background, objects from 1 without gaps, in the order of their first pixels.

    Every pixel of the mask belongs to one object. Specks go to the nearest object.
    """
    numbered, count = ndimage.label(mask, EIGHT, output=np.int32)
    if not count:
        return numbered
    regions = [_Region.of(box, region) for _, box, region in pieces(numbered)]
    total, parted = _divide(regions, numbered, shape.in_image(*_measures(regions), mask.size))
    here = shape.in_image(*_measures(parted), mask.size)
    if total > count:  # what was parted says better how large objects are
        total, _ = _divide(regions, numbered, here)
    return _in_order(_without_specks(numbered, total, here))


@dataclass(frozen=True)
class _Region:
    """A region, or a part of one."""

    box: tuple[slice, slice]
    mask: NDArray[np.bool_]
    """Within its box."""
    area: int
    hull: float
    """Area of its convex hull."""

    @classmethod
    def of(cls, box: tuple[slice, slice], mask: NDArray[np.bool_]) -> _Region:
        return cls(box, mask, int(np.count_nonzero(mask)), hull_of(mask)[1])


def _measures(regions: Sequence[_Region]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas and solidities."""
    areas = np.array([region.area for region in regions], np.float64)
    return areas, areas / np.array([region.hull for region in regions])


def _divide(regions: Sequence[_Region], numbered: NDArray[np.int32], shape: ObjectShape) -> tuple[int, list[_Region]]:
    """Number the parts of all regions in the map; gives how many there are, and the parts."""
    total, parted = 0, []
    for region in regions:
        parts, found = _divided(region, shape)
        if parts is None:
            np.copyto(numbered[region.box], total + 1, where=region.mask)
            parted.append(region)
        else:
            np.copyto(numbered[region.box], parts + np.int32(total), where=region.mask)
            parted += [_Region.of(region.box, mask) for _, _, mask in pieces(parts)]
        total += found
    return total, parted


def _divided(one: _Region, shape: ObjectShape) -> tuple[NDArray[np.int32] | None, int]:
    """A connected region's parts, numbered from 1, and how many there are; None where it is one."""
    region, whole = one.mask, (None, 1)
    # No parts can fit so much better.
    if one.area < 2 * LEAST or 1 - shape.fit(one.area, one.hull) <= shape.margin:
        return whole
    if region.size <= _LARGEST:
        return _best_cut(region, shape)
    step = int(np.ceil(np.sqrt(region.size / _LARGEST)))
    small = region[::step, ::step]
    _, pieces_of_small = ndimage.label(small, EIGHT)
    if pieces_of_small != 1:
        return whole
    parts, found = _best_cut(small, shape.scaled(1 / step))
    if found == 1:
        return whole
    wide = _nearest(parts).repeat(step, 0).repeat(step, 1)[: region.shape[0], : region.shape[1]]
    return np.multiply(wide, region, out=wide), found


@dataclass(frozen=True)
class _Part:
    """A part of a region, and the best way to divide it."""

    area: int
    hull: NDArray[np.float64]
    """Corners of its convex hull."""
    fit: float
    """Mean over its pixels, of the best way."""
    objects: tuple[tuple[int, ...], ...]
    """Its objects in that way, as basins."""

    @property
    def basins(self) -> tuple[int, ...]:
        return tuple(basin for group in self.objects for basin in group)


def _best_cut(region: NDArray[np.bool_], shape: ObjectShape) -> tuple[NDArray[np.int32], int]:
    """As `_divided`."""
    basins, joins = basins_of(region)
    basins, joins = _denoised(basins, joins)
    if not joins:
        return region.astype(np.int32), 1
    parts: dict[int, _Part] = {}
    for number, (rows, columns), mask in pieces(basins):
        area, (corners, hull) = int(np.count_nonzero(mask)), hull_of(mask)
        parts[number] = _Part(
            area, corners + np.array([columns.start, rows.start]), shape.fit(area, hull), ((number,),)
        )
    joined = max(parts) + 1
    for join in joins:
        parts[joined] = _best_of(parts.pop(join.first), parts.pop(join.second), join.neck, shape)
        joined += 1
    (best,) = parts.values()
    numbers = np.zeros(int(basins.max()) + 1, np.int32)
    for number, group in enumerate(best.objects, 1):
        numbers[list(group)] = number
    return numbers[basins], len(best.objects)


def _best_of(first: _Part, second: _Part, neck: float, shape: ObjectShape) -> _Part:
    """Two parts as one object or as theirs, whichever fits better."""
    area = first.area + second.area
    corners, hull = hull_of_points(np.concatenate([first.hull, second.hull]))
    whole = shape.fit(area, hull)
    apart = (first.area * first.fit + second.area * second.fit) / area
    if neck < shape.neck and apart > whole + shape.margin:
        return _Part(area, corners, apart, first.objects + second.objects)
    return _Part(area, corners, whole, (first.basins + second.basins,))


def _denoised(basins: NDArray[np.int32], joins: list[Join]) -> tuple[NDArray[np.int32], list[Join]]:
    """Basins without those that only steps of pixels part from others, numbered anew, and their joins."""
    count = len(joins) + 1
    noise = next((i for i, join in enumerate(joins) if join.neck < _NOISE), len(joins))
    parts: dict[int, list[int]] = {number: [number] for number in range(1, count + 1)}
    for i, join in enumerate(joins[:noise]):
        parts[count + 1 + i] = parts.pop(join.first) + parts.pop(join.second)
    anew = {part: number for number, part in enumerate(parts, 1)}
    numbers = np.zeros(count + 1, np.int32)
    for part, members in parts.items():
        numbers[members] = anew[part]
    for i in range(noise, len(joins)):
        anew[count + 1 + i] = len(parts) + 1 + i - noise
    return numbers[basins], [Join(anew[j.first], anew[j.second], j.neck) for j in joins[noise:]]


def _without_specks(numbered: NDArray[np.int32], count: int, shape: ObjectShape) -> NDArray[np.int32]:
    """Regions far smaller than an object, unless the image's border cuts them, go to the nearest object."""
    if not shape.sized or count < 2:
        return numbered
    areas = np.bincount(numbered.ravel(), minlength=count + 1)
    speck = areas < _SPECK * np.exp(shape.log_area)
    speck[0] = False
    for side in (numbered[0], numbered[-1], numbered[:, 0], numbered[:, -1]):
        speck[side] = False
    if not speck.any() or speck[1:].all():
        return numbered
    here = speck[numbered]
    kept: NDArray[np.int32] = np.where(here, 0, numbered)
    return np.where(here, _nearest(kept), kept)


def _nearest(numbered: NDArray[np.int32]) -> NDArray[np.int32]:
    """Every pixel with the number of the nearest one that has any."""
    nearest = ndimage.distance_transform_edt(numbered == 0, return_distances=False, return_indices=True)
    found: NDArray[np.int32] = numbered[tuple(nearest)]
    return found


def _in_order(numbered: NDArray[np.int32]) -> NDArray[np.int32]:
    """Numbers from 1 without gaps, in the order of first pixels, row by row."""
    numbers, found = np.zeros(int(numbered.max()) + 1, np.int32), 0
    step = max(1, _AT_ONCE // numbered.shape[1])
    strips = [slice(top, top + step) for top in range(0, len(numbered), step)]  # maps may be huge
    for strip in strips:
        pixels = numbered[strip].ravel()
        first = np.full(len(numbers), len(pixels))
        first[pixels[::-1]] = np.arange(len(pixels) - 1, -1, -1)  # of equal places the last assignment stays
        new = np.flatnonzero((first < len(pixels)) & (numbers == 0))
        new = new[new > 0]
        numbers[new[np.argsort(first[new])]] = np.arange(found + 1, found + 1 + len(new))
        found += len(new)
    for strip in strips:
        numbered[strip] = numbers[numbered[strip]]
    return numbered
