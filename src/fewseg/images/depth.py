"""How values of more than 8 bits become 0 to 255.

Cameras and scanners save 8, 10, 12 or 14 bits in files of 16. How many there are is seen by the largest value; where it
is not 16, the log says so, once for each folder, for a dark image of a 16-bit series would come out too bright. A range
of values that a person gives (`--range` of the command, `set_range` in Python) decides for all images of the process.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidImage, InvalidOption

log = logging.getLogger(__name__)

ToBytes = Callable[[NDArray[np.generic]], NDArray[np.uint8]]
"""Takes values of any kind to 0 to 255."""

_DEPTHS = (8, 10, 12, 14, 16)

_given: tuple[float, float] | None = None


def set_range(values: tuple[float, float] | None) -> None:
    """Read (low, high) of images with more than 8 bits as black and white from now on; None: what the data say.

    Raises `InvalidOption` unless low < high.
    """
    global _given
    if values is not None and not (np.isfinite(values).all() and values[0] < values[1]):
        raise InvalidOption(f"range {values[0]:g} {values[1]:g}: give the values of black and white, as 0 4095")
    _given = None if values is None else (float(values[0]), float(values[1]))


def get_range() -> tuple[float, float] | None:
    """What `set_range` set."""
    return _given


def to_bytes(kind: np.dtype[np.generic], low: float, high: float, name: str) -> ToBytes:
    """How values of this kind, which span `low` to `high`, become 0 to 255; raises `InvalidImage`.

    8-bit values stay; bool and floats hold 0 to 1; wider integers what their depth says, see above.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        raise not_finite(name)
    if kind == np.uint8:
        return lambda values: values.astype(np.uint8, copy=False)
    if kind.kind == "b":
        return _linear(0, 1)
    if _given is not None:
        return _linear(*_given)
    if kind.kind == "f":
        if low < 0 or high > 1:
            raise InvalidImage(f"{name} has float values from {low:g} to {high:g}: scale them to 0..1, or give --range")
        return _linear(0, 1)
    if low < 0 or high > 65535:
        raise InvalidImage(
            f"{name} has values from {low} to {high}: scale them to 0..255 (or 0..65535 for 16 bits), or give --range"
        )
    depth = next(depth for depth in _DEPTHS if high < 1 << depth)
    if depth < 16 and (kind == np.uint16 or depth > 8):
        _say(depth, os.path.dirname(name), name)
    return _linear(0, (1 << depth) - 1)


def not_finite(name: str) -> InvalidImage:
    return InvalidImage(f"{name} holds NaN or infinite values: replace them")


@lru_cache(maxsize=4096)
def _said(depth: int, folder: str) -> list[str]:
    return []


def _say(depth: int, folder: str, name: str) -> None:
    said = _said(depth, folder)
    if not said:
        said.append(name)
        log.warning(
            "%s: its 16-bit values are those of %d bits, and 0 to %d is taken for black to white (in others of its "
            "folder too): --range LOW HIGH decides, in Python fewseg.images.set_range",
            name,
            depth,
            (1 << depth) - 1,
        )


def _linear(low: float, high: float) -> ToBytes:
    def scaled(values: NDArray[np.generic]) -> NDArray[np.uint8]:
        result = values.astype(np.float32)
        if low:
            result -= np.float32(low)
        result *= np.float32(255 / (high - low))
        return np.clip(result + np.float32(0.5), 0, 255).astype(np.uint8)

    return scaled
