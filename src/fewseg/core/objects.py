"""Single objects of a label in one image: values that need no torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Final, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import unknown

Kind: TypeAlias = "Literal['thing', 'stuff']"
"""`thing`: a label of objects that can be counted; `stuff`: one of regions that cannot (sky, road, ink)."""

KINDS: Final = ("thing", "stuff")

_AT_ONCE: Final = 1 << 22
"""Pixels whose places are summed together."""

_KEPT: Final = 1 << 25
"""Pixels of an image above which its objects are found anew whenever they are asked for: maps of several labels at a
time would take more memory than all else."""


def check_kind(kind: str) -> None:
    """Raise `InvalidOption` for a kind that there is not."""
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)


@dataclass(frozen=True)
class DetectedObject:
    """One object of a label; coordinates are pixels of the image, x to the right and y down."""

    number: int
    """Its value in the instance map, from 1."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom; the last two lie just beyond its pixels."""
    area: int
    """Its pixels."""
    centroid: tuple[float, float]
    """Mean (x, y) of its pixels' centres: pixel (0, 0) has the centre (0.5, 0.5)."""
    score: float
    """Mean foreground probability over its pixels, in [0, 1]; 1 where there is none."""
    instance_map: NDArray[np.int32]
    """(H, W) of the whole image, shared by all its objects."""

    @property
    def crop(self) -> NDArray[np.bool_]:
        """Its mask within its box, (bottom - top, right - left)."""
        left, top, right, bottom = self.box
        inside: NDArray[np.bool_] = self.instance_map[top:bottom, left:right] == self.number
        return inside

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Its mask (H, W) in the image."""
        mask = np.zeros(self.instance_map.shape, np.bool_)
        left, top, right, bottom = self.box
        mask[top:bottom, left:right] = self.crop
        return mask

    def as_json(self) -> dict[str, Any]:
        """Box, area, centroid and score as JSON values."""
        return {
            "box": list(self.box),
            "area": self.area,
            "centroid": [round(value, 2) for value in self.centroid],
            "score": round(self.score, 4),
        }


class Objects(Sequence[DetectedObject]):
    """The objects of a label in one image, from top to bottom: their masks are disjoint and make the label's mask."""

    def __init__(
        self,
        instance_map: NDArray[np.int32],
        confidence: NDArray[Any] | None = None,
        *,
        scores: Sequence[float] | None = None,
    ) -> None:
        """Of an instance map (H, W): 0 background, objects numbered from 1 without gaps.

        `confidence` are foreground probabilities at every k-th pixel of every k-th row; or give the objects' `scores`.
        """
        self.map, self._confidence, self._given = instance_map, confidence, scores

    def __len__(self) -> int:
        return len(self._all)

    @overload
    def __getitem__(self, place: int) -> DetectedObject: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[DetectedObject]: ...
    def __getitem__(self, place: int | slice) -> DetectedObject | Sequence[DetectedObject]:
        return self._all[place]

    def __iter__(self) -> Iterator[DetectedObject]:
        return iter(self._all)

    def __repr__(self) -> str:
        return f"<{len(self)} objects, {self.map.shape[1]}x{self.map.shape[0]}>"

    @cached_property
    def _all(self) -> tuple[DetectedObject, ...]:
        from scipy.ndimage import find_objects  # which clients that count nothing need not load

        count = int(self.map.max(initial=0)) + 1
        if count == 1:
            return ()
        areas, x, y = self._moments(count)
        boxes = np.zeros((count, 4), np.int64)
        for number, (rows, columns) in enumerate(find_objects(self.map), 1):
            boxes[number] = columns.start, rows.start, columns.stop, rows.stop
        scores = self._scores(count, x, y)
        return tuple(
            DetectedObject(
                i,
                (int(boxes[i, 0]), int(boxes[i, 1]), int(boxes[i, 2]), int(boxes[i, 3])),
                int(areas[i]),
                (float(x[i]), float(y[i])),
                float(scores[i]),
                self.map,
            )
            for i in range(1, count)
        )

    def _moments(self, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """Areas of the objects, and x and y of their centroids; some rows at a time, for maps may be huge."""
        areas = np.zeros(count, np.int64)
        x, y = np.zeros(count), np.zeros(count)
        height, width = self.map.shape
        step = max(1, _AT_ONCE // width)
        for top in range(0, height, step):
            numbers = self.map[top : top + step].ravel()
            areas += np.bincount(numbers, minlength=count)
            x += np.bincount(numbers, np.tile(np.arange(width), len(numbers) // width), count)
            y += np.bincount(numbers, np.repeat(np.arange(top, min(top + step, height)), width), count)
        return areas, x / np.maximum(areas, 1) + 0.5, y / np.maximum(areas, 1) + 0.5

    def _scores(self, count: int, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean confidence over each object; at its centroid where none of its pixels has one."""
        if self._given is not None:
            return np.array([0.0, *self._given])
        if self._confidence is None:
            return np.ones(count)
        step = -(-max(self.map.shape) // max(self._confidence.shape))
        numbers, known = self.map[::step, ::step].ravel(), self._confidence.ravel().astype(np.float64)
        pixels, sums = np.bincount(numbers, minlength=count), np.bincount(numbers, known, count)
        near = self._confidence[
            tuple(
                np.minimum(at.astype(np.int64) // step, size - 1)
                for at, size in zip((y, x), self._confidence.shape, strict=True)
            )
        ]
        return np.where(pixels > 0, sums / np.maximum(pixels, 1), near)


class ObjectsByLabel(Mapping[str, Objects]):
    """Label to its objects in one image, found when they are asked for; labels of stuff are not in it."""

    def __init__(self, makers: Mapping[str, Callable[[], Objects]], stuff: Sequence[str] = ()) -> None:
        """`makers` find the objects of each label."""
        self._makers, self._stuff = dict(makers), tuple(stuff)
        self._found: dict[str, Objects] = {}

    def __getitem__(self, label: str) -> Objects:
        if label in self._stuff:
            raise KeyError(f"{label!r} is stuff, which has no single objects: set_kind({label!r}, 'thing') counts it")
        found = self._found.get(label)
        if found is None:
            found = self._makers[label]()
            if found.map.size <= _KEPT:
                self._found[label] = found
        return found

    def __contains__(self, label: object) -> bool:
        return label in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def without(self, labels: Collection[str], shape: tuple[int, int]) -> ObjectsByLabel:
        """The same for masks of `shape` (H, W), with no objects of some labels."""
        nothing = partial(Objects, np.zeros(shape, np.int32))
        return ObjectsByLabel({k: nothing if k in labels else partial(self.__getitem__, k) for k in self}, self._stuff)
