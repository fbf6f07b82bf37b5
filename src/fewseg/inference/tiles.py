"""Images far larger than the model's input, segmented in tiles that overlap.

Every tile goes through the model like an image of its own. Where tiles overlap their probabilities are blended by
weights that fall linearly towards a tile's edge and add up to 1 at every pixel, so no seam shows and every pixel is
covered exactly once. Rows of tiles are finished one after the other: beside the image and the result, only one row
of tiles is in memory.

A tile sees nothing outside it: objects larger than a tile are better segmented without tiles. The examples should show
the object as large as tiles do; `teach_tiled` cuts them into crops of a tile's size for that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fewseg.core.errors import InvalidOption
from fewseg.core.types import Prediction
from fewseg.images import open_image
from fewseg.images.decode import ImageLike
from fewseg.images.masks import INSTANCES, MaskValue
from fewseg.inference.postprocess import PredictionBuilder
from fewseg.inference.preprocess import example_mask
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiling import Span, Tile, TileOptions, crops, spans
from fewseg.models.ops.resize import resize

log = logging.getLogger(__name__)

_STRIP: Final = 256
"""Rows of the result that are decided at a time."""


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
    return _blended(segmenter, whole, TileOptions(side, overlap), batch_size, probabilities)


def _blended(
    segmenter: Segmenter, image: Image.Image, tiles: TileOptions, batch_size: int, probabilities: bool
) -> Prediction:
    """The result for an image, row of tiles by row of tiles."""
    side = tiles.side_for(segmenter)
    width, height = image.size
    rows, columns = spans(height, side, tiles.overlap), spans(width, side, tiles.overlap)
    result, rule = PredictionBuilder(segmenter.labels, (height, width), probabilities), segmenter.presence_rule
    # Sums of weighted probabilities from the first row that is not finished, for the height of one row of tiles.
    band = torch.zeros(len(segmenter.labels), rows[0].length, width)
    scores = [0.0] * len(segmenter.labels)
    for place, row in enumerate(rows):
        for column, coarse in _row_of_tiles(segmenter, image, row, columns, batch_size):
            scores = [max(pair) for pair in zip(scores, rule.scores(coarse), strict=True)]
            probable = resize(coarse[None], (row.length, column.length))[0]
            probable *= torch.from_numpy(row.weights[:, None] * column.weights)
            band[:, :, column.start : column.end] += probable
        finished = rows[place + 1].start - row.start if place + 1 < len(rows) else row.length
        for top in range(0, finished, _STRIP):
            strip = band[:, top : min(top + _STRIP, finished)]
            result.put(slice(row.start + top, row.start + top + strip.shape[1]), strip.numpy())
        # In place: a second band would be as large as the decoded image.
        rest = band[:, finished:].clone()
        band[:, : rest.shape[1]] = rest
        band[:, rest.shape[1] :] = 0
    for values in result.probabilities.values():  # shares add up to 1, to rounding
        np.clip(values, 0, 1, out=values)
    return result.prediction(scores, rule, segmenter.object_shapes)


def _row_of_tiles(
    segmenter: Segmenter, image: Image.Image, row: Span, columns: Sequence[Span], batch_size: int
) -> Iterator[tuple[Span, Tensor]]:
    """The tiles of a row with their coarse probabilities (labels, s, s)."""
    for first in range(0, len(columns), batch_size):
        batch = columns[first : first + batch_size]
        prepared = [segmenter.preprocess(image.crop((c.start, row.start, c.end, row.end))) for c in batch]
        yield from zip(batch, segmenter.predict(segmenter.encode(prepared)), strict=True)


def teach_tiled(
    segmenter: Segmenter,
    label: str,
    image: ImageLike,
    mask: ImageLike,
    *,
    tile: Tile = "auto",
    value: MaskValue | None = None,
    check: bool = True,
) -> int:
    """`Segmenter.teach` at the scale of tiles: an image larger than a tile is taught as crops around its foreground.

    The crops (at most four, each a shot) have a tile's size and hold as much of the foreground as so many can.
    Gives the number of shots. Raises as `Segmenter.teach` does.
    """
    side = TileOptions(tile).side_for(segmenter)
    opened = open_image(image)
    foreground, instances = example_mask(opened, mask, value, check=check)
    boxes = [(left, top, left + width, top + height) for left, top, width, height in crops(foreground == 1, side)]
    chosen: MaskValue = 1 if instances is None else INSTANCES
    whole = foreground if instances is None else instances
    masks = [whole[top:bottom, left:right] for left, top, right, bottom in boxes]
    segmenter.teach(label, [opened.image.crop(box) for box in boxes], masks, value=chosen, check=False)
    return len(boxes)
