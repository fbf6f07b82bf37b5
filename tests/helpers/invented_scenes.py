"""Feature maps of invented images, drawn from a seed: the inputs behind the golden vectors of INSID3.

Every image consists of ten regions, the cells of a Voronoi diagram, two of each of five concepts. A token is the sum of
its region's direction, noise, a part that all tokens of all images share, and a smooth function of its place.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewseg.images.transforms import IMAGENET_MEAN, IMAGENET_STD
from fewseg.models.backbones import BackboneSpec, FeaturePyramid
from fewseg.models.backbones.base import BlockInfo
from helpers.golden_models import fill

PATCH = 16
CONCEPTS, REGIONS = 5, 10
PLACE_WEIGHTS = (0.7, 0.6, 0.5, 0.45, 0.4)

Array = NDArray[np.float64]


def black_map(seed: int, channels: int, grid: tuple[int, int]) -> Tensor:
    """(C, h, w), float32: features of an image that shows nothing; place and a little noise."""
    rng = fill.stream(seed, f"blank.{grid[0]}.{grid[1]}")
    noise = 0.02 * (rng.standard_normal((channels, *grid)) / np.sqrt(channels))
    return torch.from_numpy((_everywhere(seed, channels, grid) + noise).astype(np.float32))


def scene(seed: int, name: str, channels: int, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Features (C, h, w) of one image, and its mask (16 h, 16 w) of 0 and 1, both float32."""
    rng = fill.stream(seed, f"scene.{name}")
    centres = rng.random((REGIONS, 2)) * np.array(grid) * PATCH
    concept = rng.permutation(np.repeat(np.arange(CONCEPTS), 2))
    rows, columns = (np.arange(side * PATCH) + 0.5 for side in grid)
    squares = (rows[:, None, None] - centres[:, 0]) ** 2 + (columns[None, :, None] - centres[:, 1]) ** 2
    region = squares.argmin(2)
    in_image = _concepts(seed, channels) + 0.35 * _directions(rng, CONCEPTS, channels)
    of_region = in_image[concept] + 0.75 * _directions(rng, REGIONS, channels)
    noise = rng.standard_normal((channels, *grid)) / np.sqrt(channels)
    at_centre = region[PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]
    tokens = of_region[at_centre].transpose(2, 0, 1) + 0.55 * noise + _everywhere(seed, channels, grid)
    mask = (concept[region] == 0).astype(np.float32)
    return torch.from_numpy((3.0 * tokens).astype(np.float32)), torch.from_numpy(mask)


def _everywhere(seed: int, channels: int, grid: tuple[int, int]) -> Array:
    """(C, h, w): what every image has at every place."""
    y, x = np.meshgrid(*((np.arange(side) + 0.5) / side for side in grid), indexing="ij")
    cosine = {axis: np.cos(np.pi * values) for axis, values in (("x", x), ("y", y))}
    twice = [np.cos(2 * np.pi * values) for values in (x, y)]
    waves = np.stack([cosine["x"], cosine["y"], *twice, cosine["x"] * cosine["y"]])
    directions = _directions(fill.stream(seed, "positional"), len(waves), channels)
    place: Array = np.einsum("k,kc,khw->chw", np.array(PLACE_WEIGHTS), directions, waves)
    common = 0.6 * _directions(fill.stream(seed, "common"), 1, channels)[0]
    return common[:, None, None] + place


def _concepts(seed: int, channels: int) -> Array:
    """(CONCEPTS, C), unit; the second resembles the first, which is the foreground."""
    values = _directions(fill.stream(seed, "concepts"), CONCEPTS, channels)
    values[1] = 0.55 * values[0] + 0.85 * values[1]
    return values / np.sqrt((values * values).sum(1, keepdims=True))


def _directions(rng: np.random.Generator, count: int, channels: int) -> Array:
    values = rng.standard_normal((count, channels))
    return values / np.sqrt((values * values).sum(1, keepdims=True))


class GivenMaps(FeaturePyramid):
    """Returns the map whose number an image is filled with, and another one for a black image."""

    def __init__(self, black: Tensor, maps: list[Tensor]) -> None:
        super().__init__(BackboneSpec("given"))
        self.net = nn.Linear(1, 1)
        self.black, self.maps = black, maps
        self.blocks = (BlockInfo(len(black), PATCH),)

    def features(self, images: Tensor) -> list[Tensor]:
        dark = -IMAGENET_MEAN[0] / IMAGENET_STD[0]
        codes = images[:, 0, 0, 0].tolist()
        chosen = [self.black if abs(code - dark) < 1e-4 else self.maps[round(code)] for code in codes]
        return [torch.stack(chosen).to(images.dtype)]

    def image(self, number: int, size: tuple[int, int]) -> Tensor:
        """(3, H, W): the image that stands for map `number`."""
        return torch.full((3, *size), float(number))
