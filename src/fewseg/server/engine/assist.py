"""Interactive segmentation (`fewseg.inference.interactive`) of an engine's images, with what it needs of them cached.

Superpixels and the model's features of an image are computed once, before the first prompt if a tool is chosen in it.
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
from fewseg.inference.prompted import Guidance
from fewseg.inference.self_support import SelfSupport
from fewseg.inference.superpixels import WHOLE, Regions, Window, cut
from fewseg.server.engine.engine import Engine
from fewseg.server.project.images import ImageEntry

REGIONS: Final = 64 << 20
"""Limit of the superpixels kept in memory, in bytes: about fifty images."""

FEATURES: Final = 128 << 20
"""Limit of the model's features kept for prompts, in bytes: about ten images of the embedded model."""


class Assistant:
    """Masks from prompts for the images of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._regions: LRUCache[str, Regions] = LRUCache(REGIONS)
        self._known: LRUCache[str, SelfSupport] = LRUCache(FEATURES)
        self._lock = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, "fewseg-assist")

    def prepare(self, image: ImageEntry) -> None:
        """Compute what prompts need of an image in the background, so that the first one is quick."""

        def quietly() -> None:
            with contextlib.suppress(FewsegError):  # reported by the first click
                self._engine.call(lambda: self._self_support(image))
                self.regions(image)

        self._ahead.submit(quietly)

    def regions(self, image: ImageEntry, window: Window = WHOLE) -> Regions:
        """The superpixels of an image, whose features are known, or of a window of it; raises `InvalidImage`."""
        key = f"{image.identity} {window}"
        with self._lock:
            regions = self._regions.get(key)
            if regions is None:
                regions = cut(image.path, self._self_support(image).features, window)
                self._regions.put(key, regions, regions.nbytes)
            return regions

    def _self_support(self, image: ImageEntry) -> SelfSupport:
        """The model's features of an image; where they are not cached, for the model's thread."""
        known = self._known.get(image.identity)
        if known is None:
            known = self._engine.model.self_support(image.path)
            self._known.put(image.identity, known, known.nbytes)
        return known

    def region(
        self,
        image: ImageEntry,
        points: Sequence[Point] = (),
        *,
        label: int | None = None,
        box: Box | None = None,
        scribble: Sequence[Place] = (),
        mode: Mode = "grow",
        size: float = 0.5,
    ) -> NDArray[np.bool_]:
        """The mask (H, W) that the prompts describe; arguments as in `fewseg.inference.interactive.region`.

        The examples of `label` in other images help to find it. Raises `InvalidImage` where the image cannot be read,
        and `InvalidOption` where no prompt lies inside it.
        """

        def found() -> NDArray[np.bool_]:
            known, taught = self._self_support(image), None
            if label is not None and (mode == "grow" or box is not None):
                taught = self._engine.predictor.by_other_images(image, label, self._engine.plan)
            return region(
                image.size,
                lambda window: self.regions(image, window),
                Guidance(known.like, taught),
                points,
                box=box,
                scribble=[scribble],
                mode=mode,
                extent=size,
            )

        return self._engine.call(found)
