"""Interactive segmentation (`fewseg.inference.interactive`) of an engine's images, with their superpixels cached.

The superpixels of an image take about 0.2 s, once; each click then takes milliseconds, a box 0.1 to 0.3 s.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import FewsegError
from fewseg.core.lru import LRUCache
from fewseg.images.prompts import Box, Place, Point
from fewseg.inference.interactive import Mode, region
from fewseg.inference.superpixels import WHOLE, Regions, Window, cut
from fewseg.server.engine.engine import Engine
from fewseg.server.project.images import ImageEntry

MEMORY: Final = 64 << 20
"""Limit of the superpixels kept in memory, in bytes: about fifty images."""


class Assistant:
    """Masks from prompts for the images of one engine; caches the superpixels of the latest images."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._regions: LRUCache[str, Regions] = LRUCache(MEMORY)
        self._lock = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, "fewseg-assist")

    def prepare(self, image: ImageEntry) -> None:
        """Compute the superpixels of an image in the background, so that the first click is quick."""

        def quietly() -> None:
            with contextlib.suppress(FewsegError):  # reported by the first click
                self.regions(image)

        self._ahead.submit(quietly)

    def regions(self, image: ImageEntry, window: Window = WHOLE) -> Regions:
        """The superpixels of an image, or of a window of it; raises `InvalidImage`."""
        key = f"{image.identity} {window}"
        with self._lock:
            regions = self._regions.get(key)
            if regions is None:
                regions = cut(image.path, self._engine.features(image).regions, window)
                self._regions.put(key, regions, regions.nbytes)
            return regions

    def region(
        self,
        image: ImageEntry,
        points: Sequence[Point] = (),
        *,
        box: Box | None = None,
        scribble: Sequence[Place] = (),
        mode: Mode = "grow",
        size: float = 0.5,
    ) -> NDArray[np.bool_]:
        """The mask (H, W) that the prompts describe; arguments as in `fewseg.inference.interactive.region`.

        Raises:
            InvalidImage: the image cannot be read. InvalidOption: no prompt lies inside the image.
        """
        return region(
            image.size,
            lambda window: self.regions(image, window),
            points,
            box=box,
            scribble=[scribble],
            mode=mode,
            extent=size,
        )
