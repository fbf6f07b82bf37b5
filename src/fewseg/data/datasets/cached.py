"""A dataset whose decoded images and masks stay in memory, within a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.lru import LRUCache
from fewseg.core.prediction import IGNORE
from fewseg.data.datasets.base import Dataset

_T = TypeVar("_T")


class CachedDataset:
    """A dataset whose most recently used images and masks stay decoded.

    Masks are handed out as views that cannot be written to; treat images likewise.

    Args:
        dataset: where they come from.
        megabytes: memory to use, in each process that reads.
        ignored_as_background: hand masks out with 0 in place of 255.
    """

    def __init__(self, dataset: Dataset, megabytes: float = 256, *, ignored_as_background: bool = False) -> None:
        self.dataset, self.ignored_as_background = dataset, ignored_as_background
        self._cache: LRUCache[tuple[str, int | None], Any] = LRUCache(int(megabytes * 2**20))

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def classes(self) -> tuple[str, ...]:
        return self.dataset.classes

    def names(self, class_id: int) -> tuple[str, ...]:
        """See `Dataset`."""
        return self.dataset.names(class_id)

    def image(self, name: str) -> Image.Image:
        """See `Dataset`."""
        return self._get((name, None), lambda: self.dataset.image(name), lambda image: 4 * image.width * image.height)

    def mask(self, name: str, class_id: int) -> NDArray[np.uint8]:
        """See `Dataset`."""

        def read() -> NDArray[np.uint8]:
            mask = self.dataset.mask(name, class_id)
            if self.ignored_as_background:
                mask = np.where(mask == IGNORE, 0, mask).astype(np.uint8)
            mask.flags.writeable = False
            return mask

        return self._get((name, class_id), read, lambda mask: mask.nbytes)

    def files(self, name: str) -> tuple[Path, ...]:
        """See `Dataset`."""
        return self.dataset.files(name)

    def _get(self, key: tuple[str, int | None], read: Callable[[], _T], size: Callable[[_T], int]) -> _T:
        value: _T | None = self._cache.get(key)
        if value is None:
            value = read()
            self._cache.put(key, value, size(value))
        return value
