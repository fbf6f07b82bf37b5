"""Where tiles lie in a large image and how they blend, and where crops lie around a mask. Light: imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidOption

if TYPE_CHECKING:
    from fewseg.inference.segmenter import Segmenter

Tile: TypeAlias = "int | Literal['auto']"

_LEAST: Final = 32
_CROPS: Final = 4
"""Crops that one large example gives at most."""


@dataclass(frozen=True)
class TileOptions:
    """How images are cut."""

    side: Tile = "auto"
    """Side of a tile in pixels of the image; `auto` is the model's input size: full resolution."""
    overlap: float = 0.25
    """Share of a tile's side that it has in common with the next one."""

    def __post_init__(self) -> None:
        if self.side != "auto" and (not isinstance(self.side, int) or self.side < _LEAST):
            raise InvalidOption(f"tiles of {self.side!r}: give a side of at least {_LEAST} pixels, or auto")
        if not 0 <= self.overlap <= 0.75:
            raise InvalidOption(f"overlap {self.overlap:g}: give a share of the tile's side from 0 to 0.75")

    def side_for(self, segmenter: Segmenter) -> int:
        """The side in pixels."""
        return int(segmenter.method.config.image_size) if self.side == "auto" else int(self.side)


@dataclass(frozen=True)
class Span:
    """A tile's place along one side of the image."""

    start: int
    length: int
    weights: NDArray[np.float32]
    """(length,) of its share of every pixel; the shares of all tiles add up to 1."""

    @property
    def end(self) -> int:
        return self.start + self.length


def spans(total: int, side: int, overlap: float) -> list[Span]:
    """Tiles of `side` along `total` pixels: evenly spread, with at least that overlap."""
    length = min(side, total)
    step = max(1, math.floor(length * (1 - overlap)))
    count = 1 + math.ceil((total - length) / step)
    starts = [round(i * (total - length) / max(1, count - 1)) for i in range(count)]
    # A ramp from each edge inwards, as long as the overlap with a neighbour; the outer edges have none.
    raw, whole = [], np.zeros(total)
    inner = np.arange(length) + 0.5
    for i, start in enumerate(starts):
        before = starts[i - 1] + length - start if i else 0
        after = start + length - starts[i + 1] if i + 1 < count else 0
        weights = np.ones(length)
        if before > 0:
            weights = np.minimum(weights, inner / before)
        if after > 0:
            weights = np.minimum(weights, (length - inner) / after)
        raw.append(weights)
        whole[start : start + length] += weights
    shares = [w / whole[s : s + length] for s, w in zip(starts, raw, strict=True)]
    return [Span(s, length, w.astype(np.float32)) for s, w in zip(starts, shares, strict=True)]


def crops(mask: NDArray[np.bool_], side: int, most: int = _CROPS) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, width, height) of at most `side` that hold most of the mask (H, W), best first.

    Each box in turn holds what it can of the foreground that no earlier one holds; a box that adds less than a tenth
    of the first is left out. One box is given even for an empty mask.
    """
    height, width = mask.shape
    tall, wide = min(side, height), min(side, width)
    # Counted in blocks of a sixteenth of the side: a huge mask needs no table of its own size.
    block = max(1, side // 16)
    counts = np.add.reduceat(mask, np.arange(0, height, block), 0, dtype=np.int32)
    counts = np.add.reduceat(counts, np.arange(0, width, block), 1, dtype=np.int64)
    down, across = min(len(counts), max(1, tall // block)), min(counts.shape[1], max(1, wide // block))
    boxes: list[tuple[int, int, int, int]] = []
    first = 0
    for _ in range(most):
        sums = np.pad(counts.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        held = sums[down:, across:] - sums[:-down, across:] - sums[down:, :-across] + sums[:-down, :-across]
        row, column = divmod(_most_central(held), held.shape[1])
        count = int(held[row, column])
        if boxes and (count == 0 or count < first / 10):
            break
        first = first or count
        boxes.append((min(column * block, width - wide), min(row * block, height - tall), wide, tall))
        counts[row : row + down, column : column + across] = 0
    return boxes


def _most_central(held: NDArray[np.int64]) -> int:
    """Of the places that hold the most, the one in their middle: the object is then not at the crop's edge."""
    best = np.argwhere(held == held.max())
    nearest = ((best - best.mean(0)) ** 2).sum(1).argmin()
    row, column = best[nearest]
    return int(row * held.shape[1] + column)
