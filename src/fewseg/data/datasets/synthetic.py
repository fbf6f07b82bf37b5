"""A dataset without files: shapes with textures over clutter, drawn from a seed whenever they are asked for.

A class is a shape with a texture (`striped star`). Every image holds objects of its own class, objects of other
classes and plain blobs, in colours that say nothing about the class, so colour alone cannot find the object. For tests
and quick trials: what works here need not work on photographs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidDataset

_Grid: TypeAlias = NDArray[np.float32]
_Region: TypeAlias = NDArray[np.bool_]


def _star(u: _Grid, v: _Grid) -> _Region:
    return np.asarray(np.hypot(u, v) < 0.62 + 0.35 * np.cos(5 * np.arctan2(v, u)))


def _heart(u: _Grid, v: _Grid) -> _Region:
    x, y = 1.25 * u, -1.25 * v
    return np.asarray((x**2 + y**2 - 0.7) ** 3 < x**2 * y**3)


SHAPES: Final[dict[str, Callable[[_Grid, _Grid], _Region]]] = {
    "disc": lambda u, v: u**2 + v**2 < 0.8,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.75,
    "triangle": lambda u, v: (v < 0.6) & (v > 1.8 * np.abs(u) - 0.9),
    "star": _star,
    "ring": lambda u, v: (u**2 + v**2 < 0.9) & (u**2 + v**2 > 0.3),
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 0.3) & (np.maximum(np.abs(u), np.abs(v)) < 0.9),
    "crescent": lambda u, v: (u**2 + v**2 < 0.9) & ((u - 0.45) ** 2 + v**2 > 0.5),
    "heart": _heart,
}
"""Shape by name: from coordinates in [-1, 1] to inside or not."""

TEXTURES: Final[dict[str, Callable[[_Grid, _Grid], _Region]]] = {
    "plain": lambda u, v: np.zeros(u.shape, bool),
    "striped": lambda u, v: np.sin(14 * u) > 0,
    "checked": lambda u, v: np.sin(10 * u) * np.sin(10 * v) > 0,
    "dotted": lambda u, v: np.sin(12 * u) * np.sin(12 * v) > 0.4,
}
"""Texture by name: where the object takes its second colour."""

CLASSES: Final = tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES)


@dataclass(frozen=True)
class _Scene:
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    """Class id + 1; 0 background."""


class SyntheticDataset:
    """32 classes, `per_class` images of each, always the same for the same arguments.

    Args:
        seed: another seed, other images.
        per_class: images made for each class.
        size: side of the images in pixels.
    """

    def __init__(self, seed: int = 0, *, per_class: int = 20, size: int = 96) -> None:
        if per_class < 1 or size < 16:
            raise InvalidDataset(f"per_class {per_class}, size {size}: give at least 1 image of at least 16 pixels")
        self.seed, self.per_class, self.size = seed, per_class, size
        self.name = "synthetic"
        self.classes = CLASSES
        self._scene = lru_cache(maxsize=512)(self._draw)

    def __reduce__(self) -> tuple[Callable[..., SyntheticDataset], tuple[int, int, int]]:
        return _rebuild, (self.seed, self.per_class, self.size)

    def names(self, class_id: int) -> tuple[str, ...]:
        """The images made for a class; it may turn up as a bystander in others too."""
        if not 0 <= class_id < len(self.classes):
            raise InvalidDataset(f"no class {class_id} in the synthetic dataset: it has {len(self.classes)}")
        return tuple(f"{class_id:02d}-{index:04d}" for index in range(self.per_class))

    def image(self, name: str) -> Image.Image:
        """The image, RGB."""
        return Image.fromarray(self._scene(name).pixels)

    def mask(self, name: str, class_id: int) -> NDArray[np.uint8]:
        """(H, W): 1 where the class is, 0 elsewhere."""
        return np.asarray(self._scene(name).labels == class_id + 1, np.uint8)

    def files(self, name: str) -> tuple[Path, ...]:
        """None: everything is drawn."""
        return ()

    def _draw(self, name: str) -> _Scene:
        class_id, index = self._parse(name)
        rng = np.random.default_rng([self.seed, zlib.crc32(f"{class_id}.{index}".encode())])
        pixels = _background(self.size, rng)
        labels = np.zeros((self.size, self.size), np.uint8)
        for _ in range(int(rng.integers(2, 5))):
            _blob(pixels, rng)
        bystanders = [int(c) for c in rng.integers(len(self.classes), size=int(rng.integers(0, 3)))]
        # The image's own objects last: nothing covers them.
        for label in bystanders + [class_id] * int(rng.integers(1, 3)):
            _object(pixels, labels, label, rng)
        noisy = pixels + rng.normal(0, 6, pixels.shape).astype(np.float32)
        return _Scene(np.clip(noisy, 0, 255).astype(np.uint8), labels)

    def _parse(self, name: str) -> tuple[int, int]:
        class_id, _, index = name.partition("-")
        if class_id.isdigit() and index.isdigit():
            found = int(class_id), int(index)
            if found[0] < len(self.classes) and found[1] < self.per_class:
                return found
        raise InvalidDataset(f"no image {name!r} in the synthetic dataset: names look like 03-0012")


def _rebuild(seed: int, per_class: int, size: int) -> SyntheticDataset:
    return SyntheticDataset(seed, per_class=per_class, size=size)


def _coordinates(size: int) -> tuple[_Grid, _Grid]:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return np.broadcast_to(axis, (size, size)), np.broadcast_to(axis[:, None], (size, size))


def _background(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A gradient between two colours with waves on it."""
    x, y = _coordinates(size)
    one, two = rng.uniform(0, 255, (2, 3)).astype(np.float32)
    direction = rng.uniform(0, 2 * np.pi)
    along = 0.5 + 0.35 * (np.cos(direction) * x + np.sin(direction) * y)
    waves = 0.15 * np.sin(rng.uniform(3, 25) * x + rng.uniform(3, 25) * y)
    share = np.clip(along + waves, 0, 1)[..., None]
    return np.asarray(one * share + two * (1 - share), np.float32)


def _blob(pixels: NDArray[np.float32], rng: np.random.Generator) -> None:
    """An ellipse in one colour, of no class."""
    u, v = _placed(len(pixels), rng, (0.1, 0.4))
    pixels[u**2 + (v * rng.uniform(1, 2.5)) ** 2 < 1] = rng.uniform(0, 255, 3)


def _object(pixels: NDArray[np.float32], labels: NDArray[np.uint8], class_id: int, rng: np.random.Generator) -> None:
    shape, texture = divmod(class_id, len(TEXTURES))
    u, v = _placed(len(pixels), rng, (0.3, 0.6))
    inside = list(SHAPES.values())[shape](u, v)
    second = list(TEXTURES.values())[texture](u, v)
    one = rng.uniform(0, 255, 3)
    two = np.where(one > 127, one - rng.uniform(90, 127, 3), one + rng.uniform(90, 127, 3))
    pixels[inside & ~second] = one
    pixels[inside & second] = two
    labels[inside] = class_id + 1


def _placed(size: int, rng: np.random.Generator, radius: tuple[float, float]) -> tuple[_Grid, _Grid]:
    """Coordinates of an object at a random place, size and angle, all of it within the image."""
    x, y = _coordinates(size)
    r = rng.uniform(*radius)
    reach = max(0.0, 1 - r)
    centre = rng.uniform(-reach, reach, 2)
    angle = rng.uniform(-0.6, 0.6)
    dx, dy = (x - centre[0]) / r, (y - centre[1]) / r
    u = np.cos(angle) * dx + np.sin(angle) * dy
    v = -np.sin(angle) * dx + np.cos(angle) * dy
    return u.astype(np.float32), v.astype(np.float32)
