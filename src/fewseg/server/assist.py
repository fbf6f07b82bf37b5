"""From a click, a scribble or a box to a region: help for people who paint, by what the model itself sees.

A picture is cut into some 600 superpixels (SLIC, Achanta et al. 2012, on colours). Each has a mean colour and, read off
at its centre, the backbone's features at strides 8 and 16. Two neighbours are as far apart as their colours and
features together say, both measured in the picture's own median, so neither needs a scale. On this graph:

- `superpixel` merges neighbours, the nearest first, into a tree of ever larger regions; a click takes the region around
  it whose size is near the one asked for and which differs most from what it would be merged with.
- `grow` and boxes solve the random walker (Grady 2006, "Random Walks for Image Segmentation", equation 10) with the
  places inside as 1 and those outside as 0. Without a place outside, every region is drawn to 0 as much as it is unlike
  the places inside, and the size sets the level that counts as inside. Of a box all outside is 0, and what is inside is
  drawn to what it resembles more, five regions inside or five outside, twice over with the regions found.

Nothing is learnt here, and one picture's regions take about 0.3 s once; each answer then takes milliseconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.errors import FewsegError, InvalidOption
from fewseg.server.assist_regions import Regions, cut
from fewseg.server.engine import Engine
from fewseg.server.engine_model import Recent
from fewseg.server.project_media import painted
from fewseg.server.project_pictures import PictureFile

Mode = Literal["superpixel", "grow"]
Point = tuple[float, float, int]
Box = tuple[float, float, float, float]

MEMORY: Final = 64 << 20
"""Bytes of regions that are kept: of some fifty pictures."""

_NEAREST: Final = 5
_ROUNDS: Final = 2
_PULL: Final = 0.03
"""How strongly a region is drawn to what it resembles, against a neighbour at no distance."""


class Assistant:
    """Answers for the pictures of one engine; keeps the regions of those seen last."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._regions: Recent[Regions] = Recent(MEMORY)
        self._lock = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, "fewseg-assist")

    def prepare(self, picture: PictureFile) -> None:
        """Cut the picture up in the background, so that the first click is quick."""

        def quietly() -> None:
            with contextlib.suppress(FewsegError):  # said when somebody clicks
                self.regions(picture)

        self._ahead.submit(quietly)

    def regions(self, picture: PictureFile) -> Regions:
        """The picture's regions; raises `InvalidImage`."""
        with self._lock:
            kept = self._regions.get(picture.identity)
            if kept is None:
                features = self._engine.features(picture)
                kept = cut(picture.path, features.regions)
                self._regions.put(picture.identity, kept)
            return kept

    def region(
        self,
        picture: PictureFile,
        points: Sequence[Point] = (),
        *,
        box: Box | None = None,
        scribble: Sequence[tuple[float, float]] = (),
        mode: Mode = "grow",
        size: float = 0.5,
    ) -> NDArray[np.bool_]:
        """The mask (H, W), at the picture's size, of what is meant.

        Args:
            picture: where.
            points: x, y, and 1 for a place inside or 0 for one outside.
            box: x0, y0, x1, y1 around it.
            scribble: places along a line inside.
            mode: see the module; a box always grows.
            size: 0 for the smallest region to 1 for the largest.

        Raises:
            InvalidImage: the picture cannot be read. InvalidOption: nothing inside is marked.
        """
        inside = [(x, y) for x, y, kind in points if kind] + [
            (float(x), float(y)) for x, y in painted(scribble, picture.size)
        ]
        outside = [(x, y) for x, y, kind in points if not kind]
        if not inside and box is None:
            raise InvalidOption("no place inside is marked: give a point, a scribble or a box")
        if box is not None and not (box[0] < box[2] and box[1] < box[3]):
            raise InvalidOption(f"box {list(box)}: give x0, y0, x1, y1 with x0 < x1 and y0 < y1")
        regions = self.regions(picture)
        within = regions.places(inside, picture.size)
        without = np.setdiff1d(regions.places(outside, picture.size), within)
        if box is not None:
            chosen = in_box(regions, _scaled(box, picture.size), within, without)
        elif mode == "superpixel":
            chosen = merged(regions, within, without, size)
        else:
            chosen = grown(regions, within, without, size)
        mask = _enlarged(chosen[regions.labels], picture.size)
        if box is not None:
            frame = np.zeros_like(mask)
            left, top, right, bottom = (max(0, round(v)) for v in box)
            frame[top : max(bottom, top + 1), left : max(right, left + 1)] = True
            mask &= frame
        return mask


def merged(regions: Regions, within: NDArray[np.int64], without: NDArray[np.int64], size: float) -> NDArray[np.bool_]:
    """Which superpixels (n,) belong to the tree's regions around the places inside, of about that size."""
    chosen = np.zeros(regions.count, bool)
    limit = 10 ** (-3.0 + 2.8 * size)
    for start in within:
        node, best, contrast = int(start), int(start), 0.0
        while True:
            parent = int(regions.parents[node])
            share = regions.shares[node]
            held = regions.members(node)
            if node != start and (share > limit or np.isin(without, held).any()):
                break
            jump = np.inf if parent < 0 else regions.heights[parent] / max(regions.heights[node], 1e-6)
            if share < limit / 4 or jump >= contrast:
                best, contrast = node, (0.0 if share < limit / 4 else jump)
            if parent < 0:
                break
            node = parent
        chosen[regions.members(best)] = True
    chosen[without] = False
    return chosen


def grown(regions: Regions, within: NDArray[np.int64], without: NDArray[np.int64], size: float) -> NDArray[np.bool_]:
    """Which superpixels (n,) a walker reaches from inside; see the module."""
    unlike = 1 - np.exp(-0.5 * regions.distances(within).min(1) ** 2 / 4)
    pull = _PULL * unlike if not len(without) else np.full(regions.count, 1e-4)
    level = 10 ** (-2.5 * size - 0.1) if not len(without) else 0.2 + 0.6 * (1 - size)
    values = regions.walk(np.zeros(regions.count), pull, within, without)
    return regions.connected(values >= level, within)


def in_box(regions: Regions, box: Box, within: NDArray[np.int64], without: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which superpixels (n,) of a box (in shares of the picture) belong to what it is drawn around."""
    x, y = regions.centres.T
    inside = (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])
    if not inside.any():  # smaller than a superpixel
        middle = np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]])
        inside[np.argmin(((regions.centres - middle) ** 2).sum(1))] = True
    outside = np.union1d(np.flatnonzero(~inside), without)
    if not len(outside):
        outside = regions.border()
        inside[outside] = False
    # At first what is near the middle stands for the object.
    depth = (
        np.minimum.reduce([x - box[0], box[2] - x]) / (box[2] - box[0]),
        np.minimum(y - box[1], box[3] - y) / (box[3] - box[1]),
    )
    central = inside & (depth[0] > 0.2) & (depth[1] > 0.2)
    current = central if central.any() else inside.copy()
    for _ in range(_ROUNDS + 1):
        here = np.union1d(np.flatnonzero(current & inside), within)
        there = np.union1d(np.setdiff1d(outside, within), np.flatnonzero(inside & ~current)[:0])
        near, far = regions.nearest(here, _NEAREST), regions.nearest(there, _NEAREST)
        prior = 1 / (1 + np.exp(-2 * (far - near)))
        values = regions.walk(prior, np.full(regions.count, 0.3), within, there)
        new = (values >= 0.5) & inside
        new[within] = True
        if not new.any() or (new == current).all():
            break
        current = new
    result = current & inside
    result[without] = False
    return result if result.any() else inside


def _scaled(box: Box, size: tuple[int, int]) -> Box:
    return box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]


def _enlarged(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask at `size` (width, height) with smooth outlines."""
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    image = Image.fromarray(mask.view(np.uint8) * np.uint8(255))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC)) >= 128
