"""The same photograph known again at another size: by its thumbnail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.images import read_image

SAME = 0.98
"""Correlation of two thumbnails of the same photograph."""


@cache  # the default's recipe asks twice for the same thousands
def thumbnail(path: Path) -> NDArray[np.float32]:
    """16 x 16 colours without their mean, of unit length: the same for the same photograph at other sizes."""
    small = read_image(path).resize((16, 16), Image.Resampling.BOX)
    values = np.asarray(small, np.float32).ravel()
    values = values - values.mean()
    return values / max(1e-6, float(np.linalg.norm(values)))


@dataclass(frozen=True)
class Photographs:
    """Photographs that are known again, at whatever size."""

    names: list[str]
    thumbnails: NDArray[np.float32]

    @classmethod
    def of(cls, paths: Sequence[Path]) -> Photographs:
        return cls([path.name for path in paths], np.stack([thumbnail(path) for path in paths]))

    def among(self, others: Sequence[Path]) -> set[str]:
        """Names of those that are among the others."""
        theirs = np.stack([thumbnail(path) for path in others])
        alike = (self.thumbnails @ theirs.T).max(1)
        return {name for name, value in zip(self.names, alike, strict=True) if value > SAME}
