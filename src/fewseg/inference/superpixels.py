"""An image as a graph of superpixels with colours and the backbone's features; see `fewseg.inference.interactive`."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption
from fewseg.images import ImageLike, open_image
from fewseg.images.read import fitted

SIDE: Final = 448
"""Longest side at which an image is cut up."""

COUNT: Final = 600
"""Superpixels, about."""

BAND: Final = 1.0
"""Distance, in medians between neighbours, at which similarity falls to 1/e."""

_COMPACTNESS: Final = 0.1
"""How much nearness counts against colours, which scikit-image brings to a range of 1: boxes on photographs of base
classes were outlined best among 0.03, 0.1 and 12, where superpixels are squares."""
_ROUNDS: Final = 6

Window: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom in shares of the image."""

WHOLE: Final[Window] = (0.0, 0.0, 1.0, 1.0)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """The superpixels of an image."""

    labels: Ints
    """(h, w): which superpixel each pixel of the reduced image belongs to."""
    features: Floats
    """(n, c): distances between rows are the distances between superpixels, 1 between median neighbours."""
    centres: Floats
    """(n, 2) x, y in shares of the image."""
    pairs: Ints
    """(m, 2): neighbours."""
    borders: Floats
    """(m,): how long their common border is, 1 for the median."""
    parents: Ints
    """(2 n - 1,): the merged region that each region of the tree goes into; -1 for the whole."""
    heights: Floats
    """(2 n - 1,): at what distance each was merged; 0 for superpixels."""
    shares: Floats
    """(2 n - 1,): of the image's area."""
    order: Ints
    """Superpixels such that every region of the tree is a run of them."""
    runs: Ints
    """(2 n - 1, 2): where each region's run begins and ends."""

    @property
    def count(self) -> int:
        return len(self.features)

    @property
    def nbytes(self) -> int:
        return sum(v.nbytes for v in vars(self).values() if isinstance(v, np.ndarray)) + 8 * len(self.features) ** 2

    def members(self, node: int) -> Ints:
        """The superpixels of a region of the tree."""
        begin, end = self.runs[node]
        return self.order[begin:end]

    def places(self, points: Sequence[tuple[float, float]], size: tuple[int, int]) -> Ints:
        """The superpixels under points of the image of `size` (width, height), each once, in order."""
        height, width = self.labels.shape
        found = []
        for x, y in points:
            column = min(max(int(x / size[0] * width), 0), width - 1)
            row = min(max(int(y / size[1] * height), 0), height - 1)
            found.append(int(self.labels[row, column]))
        return np.array(list(dict.fromkeys(found)), np.int64)

    def distances(self, to: Ints) -> Floats:
        """(n, k): of every superpixel to those named."""
        squares = (self.features**2).sum(1)
        return np.sqrt(np.maximum(squares[:, None] + squares[to] - 2 * self.features @ self.features[to].T, 0))

    @cached_property
    def background_similarity(self) -> Floats:
        """(n,): `similarity` to the whole image."""
        return self.similarity(np.arange(self.count))

    def similarity(self, to: Ints) -> Floats:
        """(n,): logarithm of the mean similarity, weighted by area, to those named (at least one), itself left out."""
        exponents = np.log(self.shares[to]) - self.distances(to) / BAND
        weights = np.full(self.count, self.shares[to].sum())
        if len(to) > 1:
            exponents[to, np.arange(len(to))] = -np.inf
            weights[to] -= self.shares[to]
        top = exponents.max(1)
        return np.asarray(np.log(np.exp(exponents - top[:, None]).sum(1)) + top - np.log(weights))

    def border(self) -> Ints:
        """The superpixels along the image's edge."""
        edge = (self.labels[0], self.labels[-1], self.labels[:, 0], self.labels[:, -1])
        return np.unique(np.concatenate(edge))

    @cached_property
    def _laplacian(self) -> Floats:
        a, b = self.pairs.T
        weights = np.exp(-((self.features[a] - self.features[b]) ** 2).sum(1)) * np.minimum(self.borders, 2) + 1e-5
        matrix = np.zeros((self.count, self.count))
        matrix[a, b] = matrix[b, a] = -weights
        np.fill_diagonal(matrix, -matrix.sum(1))
        return matrix

    def walk(self, prior: Floats, pull: Floats, ones: Ints, zeros: Ints) -> Floats:
        """(n,) in [0, 1]: 1 and 0 where fixed, elsewhere the mean of the neighbours and, weighted `pull`, `prior`."""
        values = np.zeros(self.count)
        values[ones] = 1
        fixed = np.union1d(ones, zeros)
        free = np.setdiff1d(np.arange(self.count), fixed)
        if not len(free):
            return values
        matrix = self._laplacian[np.ix_(free, free)] + np.diag(pull[free] + 1e-9)
        right = pull[free] * prior[free] - self._laplacian[np.ix_(free, fixed)] @ values[fixed]
        values[free] = np.linalg.solve(matrix, right)
        return values

    def connected(self, chosen: NDArray[np.bool_], to: Ints) -> NDArray[np.bool_]:
        """Those chosen that hang together with one of those named, which always belong."""
        allowed = chosen.copy()
        allowed[to] = True
        neighbours: dict[int, list[int]] = {}
        for a, b in self.pairs.tolist():
            if allowed[a] and allowed[b]:
                neighbours.setdefault(a, []).append(b)
                neighbours.setdefault(b, []).append(a)
        reached, left = set(to.tolist()), to.tolist()
        while left:
            for other in neighbours.get(left.pop(), ()):
                if other not in reached:
                    reached.add(other)
                    left.append(other)
        result = np.zeros(self.count, bool)
        result[list(reached)] = True
        return result


def cut(image: ImageLike, features: Tensor, window: Window = WHOLE) -> Regions:
    """The regions of an image, or of a window of it; `features` (c, h, w) are the whole image's, unit vectors.

    Raises `InvalidImage`.
    """
    try:
        from skimage.color import rgb2lab
        from skimage.segmentation import slic
    except ImportError:
        raise InvalidOption("boxes, clicks and scribbles need scikit-image: pip install 'fewseg[weak]'") from None
    share = max(window[2] - window[0], window[3] - window[1])
    opened = open_image(image, at_least=round(2 * SIDE / share)).image
    if window != WHOLE:
        sides = np.array([*opened.size, *opened.size])
        left, top, right, bottom = (int(v) for v in np.round(np.array(window) * sides))
        opened = opened.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
    opened = fitted(opened, SIDE, enlarge=window != WHOLE)
    lab = rgb2lab(np.asarray(opened)).astype(np.float32)
    if min(opened.size) < 2:
        labels = np.arange(lab.shape[0] * lab.shape[1], dtype=np.int64).reshape(lab.shape[:2])
    else:
        labels = slic(
            lab, COUNT, _COMPACTNESS, max_num_iter=_ROUNDS, sigma=0.7, convert2lab=False, start_label=0, channel_axis=-1
        )
    labels = np.unique(labels, return_inverse=True)[1].reshape(lab.shape[:2]).astype(np.int64)
    sizes = np.bincount(labels.ravel()).astype(np.float64)
    centres = _centres(labels, sizes)
    colours = np.stack([np.bincount(labels.ravel(), lab[..., c].ravel()) / sizes for c in range(3)], 1)
    pairs, borders = _neighbours(labels)
    combined = _side_by_side(colours, _sampled(features, _in_image(centres, window)), pairs)
    parents, heights, areas, order, runs = _tree(combined, pairs, borders, sizes)
    return Regions(labels, combined, centres, pairs, borders, parents, heights, areas / labels.size, order, runs)


def _centres(labels: Ints, sizes: Floats) -> Floats:
    height, width = labels.shape
    y, x = np.mgrid[:height, :width]
    flat = labels.ravel()
    across, down = (np.bincount(flat, (v.ravel() + 0.5)) / sizes for v in (x, y))
    return np.stack([across / width, down / height], 1)


def _in_image(centres: Floats, window: Window) -> Floats:
    """Shares of the window as shares of the image."""
    low, high = np.array(window[:2]), np.array(window[2:])
    return low + centres * (high - low)


def _sampled(features: Tensor, centres: Floats) -> Floats:
    """(n, c): the features at the centres."""
    grid = torch.from_numpy(centres * 2 - 1).float()[None, None]
    taken = F.grid_sample(features.float()[None], grid, mode="bilinear", padding_mode="border", align_corners=False)
    values: Floats = taken[0, :, 0].T.double().numpy()
    return values


def _neighbours(labels: Ints) -> tuple[Ints, Floats]:
    """Pairs (m, 2) of superpixels that touch, and the length of their borders in medians."""
    count = int(labels.max()) + 1
    across = np.stack([labels[:, :-1].ravel(), labels[:, 1:].ravel()])
    down = np.stack([labels[:-1].ravel(), labels[1:].ravel()])
    both = np.sort(np.concatenate([across, down], 1), 0)
    both = both[:, both[0] != both[1]]
    keys, lengths = np.unique(both[0] * count + both[1], return_counts=True)
    if not len(keys):
        return np.zeros((0, 2), np.int64), np.zeros(0)
    return np.stack([keys // count, keys % count], 1), lengths / np.median(lengths)


def _side_by_side(colours: Floats, features: Floats, pairs: Ints) -> Floats:
    """Colours and features side by side, each in the median distance between neighbours."""
    parts = []
    for values in (colours, features):
        apart = np.sqrt(((values[pairs[:, 0]] - values[pairs[:, 1]]) ** 2).sum(1)) if len(pairs) else np.ones(1)
        parts.append(values / max(float(np.median(apart)), 1e-3 * float(apart.max()), 1e-6))
    return np.concatenate(parts, 1) / np.sqrt(2)


def _tree(features: Floats, pairs: Ints, borders: Floats, sizes: Floats) -> tuple[Ints, Floats, Floats, Ints, Ints]:
    """Merge neighbours, the nearest first: parents, heights, areas, an order of the superpixels, and runs in it."""
    count = len(features)
    total = 2 * count - 1
    parents, heights, areas = np.full(total, -1, np.int64), np.zeros(total), np.zeros(total)
    areas[:count] = sizes
    means = np.zeros((total, features.shape[1]))
    means[:count] = features
    near: list[set[int]] = [set() for _ in range(total)]
    for a, b in pairs.tolist():
        near[a].add(b)
        near[b].add(a)
    members: list[list[int]] = [[i] for i in range(count)]

    def distance(a: int, b: int) -> float:
        # Ward's: small regions go first, so that none is left over within a large one.
        share = 2 * areas[a] * areas[b] / (areas[a] + areas[b]) / float(sizes.mean())
        return float(np.sqrt(((means[a] - means[b]) ** 2).sum() * share))

    heap = [(distance(a, b), a, b) for a, b in pairs.tolist()]
    heapq.heapify(heap)
    alive = [True] * count + [False] * (count - 1)
    for new in range(count, total):
        while heap and not (alive[heap[0][1]] and alive[heap[0][2]]):
            heapq.heappop(heap)
        if heap:
            height, a, b = heapq.heappop(heap)
        else:  # parts that touch nowhere
            a, b = [i for i in range(new) if alive[i]][:2]
            height = float(heights.max())
        parents[a] = parents[b] = new
        alive[a] = alive[b] = False
        alive[new] = True
        heights[new] = max(height, heights[a], heights[b])
        areas[new] = areas[a] + areas[b]
        means[new] = (means[a] * areas[a] + means[b] * areas[b]) / areas[new]
        near[new] = {i for i in near[a] | near[b] if alive[i]}
        for i in near[new]:
            near[i].add(new)
            heapq.heappush(heap, (distance(new, i), new, i))
        members.append(members[a] + members[b])
    return parents, heights, areas, *_runs(members, count)


def _runs(members: list[list[int]], count: int) -> tuple[Ints, Ints]:
    """An order of the `count` superpixels in which every region of the tree is a run, and each region's run."""
    order = np.array(members[-1], np.int64)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    return order, np.array([[int(place[m].min()), int(place[m].min()) + len(m)] for m in members], np.int64)
