"""Generated discs and ellipses, some of which touch, as instance maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def ellipse(
    shape: tuple[int, int], centre: tuple[float, float], radii: tuple[float, float], angle: float = 0.0
) -> NDArray[np.bool_]:
    """The mask (H, W) of an ellipse with its centre at (x, y), turned by an angle in radians."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    u = (x - centre[0]) * np.cos(angle) + (y - centre[1]) * np.sin(angle)
    v = (y - centre[1]) * np.cos(angle) - (x - centre[0]) * np.sin(angle)
    return (u / radii[0]) ** 2 + (v / radii[1]) ** 2 <= 1


def chain(count: int, radius: float = 12.0, step: float = 1.7, angle: float = 0.4) -> NDArray[np.int32]:
    """Discs in a row whose centres are `step` radii apart, so that each overlaps the next."""
    side = int(radius * (step * count + 3))
    found = np.zeros((side, side), np.int32)
    for number in range(count):
        along = radius * (1.5 + step * number)
        centre = (along * np.cos(angle) + radius * 0.5, along * np.sin(angle) + radius * 1.5)
        found[ellipse(found.shape, centre, (radius, radius))] = number + 1
    return found


def grid(rows: int, columns: int, radius: float = 10.0, gap: float = 3.0) -> NDArray[np.int32]:
    """Discs that do not touch."""
    step = 2 * radius + gap
    found = np.zeros((int(rows * step + gap), int(columns * step + gap)), np.int32)
    for row in range(rows):
        for column in range(columns):
            centre = (gap + radius + column * step, gap + radius + row * step)
            found[ellipse(found.shape, centre, (radius, radius))] = row * columns + column + 1
    return found
