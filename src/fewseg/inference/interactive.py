"""From a click, a scribble or a box to a mask: examples without painting, and help for people who paint.

An image is cut into some 600 superpixels (SLIC, Achanta et al. 2012, on colours); for a box, a window around it is.
Each has a mean colour and, read off at its centre, the backbone's features at strides 8 and 16. Two superpixels are as
far apart as colours and features together say, both in medians between neighbours, so neither needs a scale.

- `merged` merges neighbours, the nearest first, into a tree of ever larger regions; a click takes the region around it
  whose size is near the one asked for and which differs most from what it would be merged with.
- `grown` and `in_box` solve the random walker with priors (Grady 2005, "Multilabel Random Walker Image Segmentation
  Using Prior Models"): prompted places inside are 1, those outside 0, and the prior of the others compares their
  similarity to the foreground and to the background. For clicks the foreground is the places inside, the background
  the whole image and the places outside, and `extent` shifts the prior; what is not connected with a place inside is
  left out. For a box, as in GrabCut (Rother et al. 2004), it is everything in it against everything around it, then,
  repeatedly, the mask so far against the rest.
- `fewseg.inference.prompted` makes the object of such a rough mask, with what the model finds from it and what the
  label's examples find.

docs/weak-annotation.md measures the masks, and what such examples cost against full masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit
from torch import Tensor

from fewseg.core.errors import InvalidOption
from fewseg.images import ImageLike, open_image
from fewseg.images.prompts import Box, Place, Point, Prompt
from fewseg.inference.prompted import Floats, Guidance, Search
from fewseg.inference.superpixels import Regions, Window, cut

Mode: TypeAlias = Literal["superpixel", "grow"]
_Pixels: TypeAlias = tuple[int, int, int, int]

_ROUNDS: Final = 5
"""Refinement steps for a box's object."""

_MARGIN: Final = 0.5
"""Width of the context around a box on each side, as a share of the box's side."""

_PULL_POINTS, _PULL = 0.1, 0.3
"""Weight of a superpixel's prior, against that of a neighbour at distance 0."""

_BACKGROUND: Final = 1.0
"""Log odds for the background that the similarity to the whole image gets."""
_SMALLEST, _SPAN = -2.5, 8.0
"""Log odds that `extent` starts from, and that it adds."""

_NEAR, _ALONG = 0.3, 0.06
"""How far from a point, and from a scribble, the rough mask reaches at most, in longer sides of the image."""

_CENTRE: Final = 1.0
"""Log odds of the middle of a box; at its corners they are as much against."""


def prompter(image: ImageLike, features: Tensor, guidance: Guidance) -> Callable[[Prompt], NDArray[np.bool_]]:
    """A function that gives the mask (H, W), at the image's size, of the object that a prompt stands for.

    `features` (c, h, w) are the whole image's, as `region_features` gives them. Raises `InvalidImage`; the function
    raises `InvalidSupport` for a place outside the image and `InvalidOption` for a box outside.
    """
    size = open_image(image, at_least=1).size
    kept: dict[Window, Regions] = {}

    def regions_of(window: Window) -> Regions:
        if window not in kept:
            kept[window] = cut(image, features, window)
        return kept[window]

    def mask_of(prompt: Prompt) -> NDArray[np.bool_]:
        prompt.check_within(size)
        return region(size, regions_of, guidance, prompt.points, box=prompt.box, scribble=prompt.scribble)

    return mask_of


def region(
    size: tuple[int, int],
    regions_of: Callable[[Window], Regions],
    guidance: Guidance,
    points: Sequence[Point] = (),
    *,
    box: Box | None = None,
    scribble: Iterable[Sequence[Place]] = (),
    mode: Mode = "grow",
    extent: float = 0.5,
) -> NDArray[np.bool_]:
    """The mask (H, W) of one object that points, scribbles or a box stand for, in an image of `size` (width, height).

    Args:
        size: width and height of the image in pixels.
        regions_of: gives the superpixels of a window of the image.
        guidance: what the model finds from a rough mask, and what the label's examples find.
        points: x, y, and 1 for a place on the object or 0 for one off it.
        box: x0, y0, x1, y1 around the object; points may correct the mask.
        scribble: lines on the object, each a list of places.
        mode: `grow` for the object, `superpixel` for `merged` regions; with a box, always the object.
        extent: wanted size of the mask, from 0, the smallest, to 1, the largest; without effect on a box.

    Raises:
        InvalidOption: there is neither a place on the object nor a box, or the box lies outside the image.
    """
    lines = [line for line in scribble if len(line)]
    if box is None and not lines and not any(kind for _, _, kind in points):
        raise InvalidOption("no place inside is marked: give a point, a scribble or a box")
    frame = _pixels((0, 0, *size) if box is None else box, size)
    window = frame if box is None else _around(frame, size)
    width, height = size
    shares = window[0] / width, window[1] / height, window[2] / width, window[3] / height
    regions = regions_of(shares)
    drawn = [place for line in lines for place in _along(line, size)]
    within, without = _prompted(regions, points, drawn, size, window)
    rough = partial(_rough, regions, points, drawn, size, within, without, extent)
    part = None if box is None else _shares(frame, window)
    odds = _odds(Search(guidance, regions, shares, within, without), part, rough, mode, extent)
    found = _enlarged(odds, (window[2] - window[0], window[3] - window[1]))
    mask = np.zeros((height, width), bool)
    left, top, right, bottom = frame
    mask[top:bottom, left:right] = found[top - window[1] : bottom - window[1], left - window[0] : right - window[0]]
    return mask


def _odds(search: Search, box: Box | None, rough: Callable[[], NDArray[np.bool_]], mode: Mode, extent: float) -> Floats:
    """Log odds (h, w) of `region`'s object in its window, from a box in shares of the window or a `rough` mask."""
    regions, within, without = search.regions, search.within, search.without
    if box is not None:
        return search.in_box(in_box(regions, box, within, without)[regions.labels], box)
    if not len(within):  # all of a scribble was taken back
        return np.full(regions.labels.shape, -1, np.float32)
    if mode == "superpixel":
        return np.where(merged(regions, within, without, extent)[regions.labels], 1, -1).astype(np.float32)
    return search.around(rough(), _SPAN * (extent - 0.5))


def _along(line: Sequence[Place], size: tuple[int, int]) -> list[tuple[float, float]]:
    """Places along a line, closer together than superpixels are wide."""
    corners = np.clip(np.array(line, np.float64).reshape(-1, 2), 0, np.array(size) - 1)
    if len(corners) < 2:
        return [(x, y) for x, y in corners.tolist()]
    ahead = np.diff(corners, axis=0)
    steps = np.ceil(np.abs(ahead).max(1) / max(1.0, max(size) / 200)).astype(int) + 1
    start = np.repeat(corners[:-1], steps, 0)
    share = np.concatenate([np.linspace(0, 1, n) for n in steps])[:, None]
    return [(x, y) for x, y in (start + share * np.repeat(ahead, steps, 0)).tolist()]


def _within(point: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    """The nearest place in the image."""
    return min(max(point[0], 0), size[0] - 1), min(max(point[1], 0), size[1] - 1)


def _pixels(box: Box, size: tuple[int, int]) -> _Pixels:
    """The pixels of a box within an image of `size`; raises `InvalidOption` for none."""
    left, top = (min(max(round(v), 0), n - 1) for v, n in zip(box[:2], size, strict=True))
    right, bottom = (min(max(round(v), 0), n) for v, n in zip(box[2:], size, strict=True))
    if not (box[0] < box[2] and box[1] < box[3] and box[0] < size[0] and box[1] < size[1] and right > 0 and bottom > 0):
        raise InvalidOption(
            f"box {', '.join(f'{v:g}' for v in box)} in an image of {size[0]}x{size[1]}: give x0, y0, x1, y1 within "
            "it, x0 < x1 and y0 < y1"
        )
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _around(frame: _Pixels, size: tuple[int, int]) -> _Pixels:
    """A window with room on each side of the frame: small things are cut up as finely as large ones."""
    across, down = (max(8, round(_MARGIN * (frame[i + 2] - frame[i]))) for i in (0, 1))
    return (
        max(0, frame[0] - across),
        max(0, frame[1] - down),
        min(size[0], frame[2] + across),
        min(size[1], frame[3] + down),
    )


def _shares(frame: _Pixels, window: _Pixels) -> Box:
    width, height = window[2] - window[0], window[3] - window[1]
    left, top, right, bottom = (frame[i] - window[i % 2] for i in range(4))
    return left / width, top / height, right / width, bottom / height


def _prompted(
    regions: Regions,
    points: Sequence[Point],
    line: Sequence[Place],
    size: tuple[int, int],
    window: _Pixels,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The superpixels inside and outside: a point outside takes back what a line covers, a point inside stands."""
    left, top, right, bottom = window

    def places(marked: Sequence[Place]) -> NDArray[np.int64]:
        here = [(x - left, y - top) for x, y in marked if left <= x < right and top <= y < bottom]
        return regions.places(here, (right - left, bottom - top))

    stands = places([_within((x, y), size) for x, y, kind in points if kind])
    without = np.setdiff1d(places([_within((x, y), size) for x, y, kind in points if not kind]), stands)
    return np.union1d(stands, np.setdiff1d(places(line), without)), without


def _rough(
    regions: Regions,
    points: Sequence[Point],
    drawn: Sequence[Place],
    size: tuple[int, int],
    within: NDArray[np.int64],
    without: NDArray[np.int64],
    extent: float,
) -> NDArray[np.bool_]:
    """What surely belongs to an object (h, w): what has `grown` near points, or what is near a scribble."""
    height, width = regions.labels.shape
    y, x = np.mgrid[:height, :width] + 0.5
    places = np.array(drawn or [_within((x, y), size) for x, y, kind in points if kind]) / size * (width, height)
    apart = np.full((height, width), np.inf)
    for across, down in places:
        np.minimum(apart, np.hypot(x - across, y - down), out=apart)
    near = apart <= (_ALONG if drawn else _NEAR) * max(width, height)
    near &= ~np.isin(regions.labels, without)
    if not drawn:
        near &= grown(regions, within, without, extent)[regions.labels]
    return near | np.isin(regions.labels, within)


def merged(regions: Regions, within: NDArray[np.int64], without: NDArray[np.int64], size: float) -> NDArray[np.bool_]:
    """Which superpixels (n,) belong to the tree's regions around the places inside, of about that size."""
    chosen = np.zeros(regions.count, bool)
    limit = 10 ** (-2.5 + 2.3 * size)  # of the image's area
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
    background = regions.background_similarity + _BACKGROUND
    if len(without):
        background = np.logaddexp(background, regions.similarity(without))
    prior = expit(regions.similarity(within) - background + (_SMALLEST + _SPAN * size))
    values = regions.walk(prior, np.full(regions.count, _PULL_POINTS), within, without)
    return regions.connected(values >= 0.5, within)


def in_box(regions: Regions, box: Box, within: NDArray[np.int64], without: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which superpixels (n,) of a box (in shares of the image) belong to what it is drawn around."""
    x, y = regions.centres.T
    inside = (x >= box[0]) & (x <= box[2]) & (y >= box[1]) & (y <= box[3])
    inside[within] = True
    inside[without] = False
    if not inside.any():  # smaller than a superpixel
        middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        inside[np.argmin(((regions.centres - middle) ** 2).sum(1))] = True
    outside = np.flatnonzero(~inside)
    if not len(outside):
        outside = np.setdiff1d(regions.border(), within)
        inside[outside] = False
        if not inside.any():  # nothing to compare: all of it
            return np.ones(regions.count, bool)
    across = (2 * x - box[0] - box[2]) / (box[2] - box[0])
    down = (2 * y - box[1] - box[3]) / (box[3] - box[1])
    place = _CENTRE * (1 - across**2 - down**2)  # the ellipse in the box
    current = inside.copy()
    for _ in range(_ROUNDS):
        here, there = np.union1d(np.flatnonzero(current), within), np.flatnonzero(~current)
        if not len(there):
            break
        odds = regions.similarity(here) - regions.similarity(there)
        values = regions.walk(expit(odds + place), np.full(regions.count, _PULL), within, outside)
        new = (values >= 0.5) & inside
        if not new.any() or (new == current).all():
            break
        current = new
    return current


def _enlarged(odds: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask where log odds (h, w) are at least 0, at `size` (width, height) with smooth outlines."""
    image = Image.fromarray(np.floor(expit(odds) * 256).clip(0, 255).astype(np.uint8))
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)) >= 128
