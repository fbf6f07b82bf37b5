"""Images far larger than the model's input, segmented in tiles that overlap.

Every tile goes through the model like an image of its own. Where tiles overlap their probabilities are blended by
weights that fall linearly towards a tile's edge and add up to 1 at every pixel, so no seam shows and every pixel is
covered exactly once. Rows of tiles are finished one after the other: beside the image and the result, only one row
of tiles is in memory.

A tile sees nothing outside it: objects larger than a tile are better segmented without tiles. The examples should show
the object as large as tiles do; `teach_tiled` cuts them into crops of a tile's size for that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewseg.core.errors import InvalidOption
from fewseg.core.types import Prediction
from fewseg.images import open_image, read_mask
from fewseg.images.decode import ImageLike
from fewseg.images.masks import MaskValue
from fewseg.inference.postprocess import PredictionBuilder
from fewseg.inference.segmenter import Segmenter
from fewseg.models.ops.resize import resize

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


def segment_tiled(
    segmenter: Segmenter,
    image: ImageLike,
    *,
    tile: Tile = "auto",
    overlap: float = 0.25,
    batch_size: int = 0,
    probabilities: bool = True,
) -> Prediction:
    """`Segmenter.segment` in tiles; for an image no larger than one, the very same.

    A label's score is the highest of all tiles, since it is in the image where it is in one tile: with many tiles it
    is easier to reach the threshold.

    Args:
        segmenter: taught with at least one label.
        image: anything `fewseg.images.read_image` reads; it is decoded whole.
        tile: side of the tiles in pixels of the image; `auto` is the model's input size.
        overlap: share of the side that neighbours have in common.
        batch_size: tiles that go through the model together; 0 chooses: 8 on a GPU, 1 else.
        probabilities: without them the result takes a fifth of the memory.

    Raises:
        InvalidImage: it cannot be read. InvalidSupport: nothing has been taught. InvalidOption: impossible tiles.
    """
    segmenter.require_labels()
    options = TileOptions(tile, overlap)
    if batch_size < 0:
        raise InvalidOption(f"batch size {batch_size}: choose at least 1, or 0")
    batch_size = batch_size or segmenter.default_batch_size
    side = options.side_for(segmenter)
    whole = open_image(image).image
    if max(whole.size) <= side:
        return segmenter.segment(whole, probabilities=probabilities)
    segmenter = segmenter.with_supports(segmenter.supports)  # other threads may teach meanwhile
    pixels = np.asarray(whole)
    height, width = pixels.shape[:2]
    rows, columns = _spans(height, side, overlap), _spans(width, side, overlap)
    result, rule = PredictionBuilder(segmenter.labels, (height, width), probabilities), segmenter.presence_rule
    # Sums of weighted probabilities from the first row that is not finished, for the height of one row of tiles.
    band = torch.zeros(len(segmenter.labels), rows[0].length, width)
    scores = [0.0] * len(segmenter.labels)
    for place, row in enumerate(rows):
        for column, coarse in _row_of_tiles(segmenter, pixels, row, columns, batch_size):
            scores = [max(pair) for pair in zip(scores, rule.scores(coarse), strict=True)]
            probable = resize(coarse[None], (row.length, column.length))[0]
            probable *= row.weights[:, None] * column.weights
            band[:, :, column.start : column.end] += probable
        finished = rows[place + 1].start - row.start if place + 1 < len(rows) else row.length
        result.put(slice(row.start, row.start + finished), band[:, :finished].numpy())
        band = torch.cat([band[:, finished:], torch.zeros(len(band), finished, width)], 1)
    for values in result.probabilities.values():  # shares add up to 1, to rounding
        np.clip(values, 0, 1, out=values)
    return result.prediction(scores, rule)


@dataclass(frozen=True)
class _Span:
    """A tile's place along one side of the image."""

    start: int
    length: int
    weights: Tensor
    """(length,) of its share of every pixel; the shares of all tiles add up to 1."""

    @property
    def end(self) -> int:
        return self.start + self.length


def _spans(total: int, side: int, overlap: float) -> list[_Span]:
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
    return [_Span(s, length, torch.from_numpy(w).float()) for s, w in zip(starts, shares, strict=True)]


def _row_of_tiles(
    segmenter: Segmenter, pixels: NDArray[np.uint8], row: _Span, columns: Sequence[_Span], batch_size: int
) -> Iterator[tuple[_Span, Tensor]]:
    """The tiles of a row with their coarse probabilities (labels, s, s)."""
    for first in range(0, len(columns), batch_size):
        batch = columns[first : first + batch_size]
        prepared = [segmenter.preprocess(pixels[row.start : row.end, c.start : c.end]) for c in batch]
        yield from zip(batch, segmenter.predict(segmenter.encode(prepared)), strict=True)


def teach_tiled(
    segmenter: Segmenter,
    label: str,
    image: ImageLike,
    mask: ImageLike,
    *,
    tile: Tile = "auto",
    value: MaskValue | None = None,
) -> int:
    """`Segmenter.teach` at the scale of tiles: an image larger than a tile is taught as crops around its foreground.

    The crops (at most four, each a shot) have a tile's size and hold as much of the foreground as so many can.
    Gives the number of shots. Raises as `Segmenter.teach` does.
    """
    side = TileOptions(tile).side_for(segmenter)
    opened = open_image(image)
    foreground = read_mask(mask, value=value, size=opened.size, orientation=opened.orientation)
    pixels = np.asarray(opened.image)
    boxes = crops(foreground == 1, side)
    parts = [(slice(top, top + height), slice(left, left + width)) for left, top, width, height in boxes]
    segmenter.teach(label, [pixels[p] for p in parts], [foreground[p] for p in parts], value=1)
    return len(parts)


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
