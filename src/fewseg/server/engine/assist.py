"""Help for people who paint: `fewseg.inference.interactive` for the images of an engine, whose superpixels are kept.

An image is cut up in about 0.2 s, once, and each click then takes milliseconds; a box takes 0.1 to 0.3 s.
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
from fewseg.images.prompts import Box, Place, Point
from fewseg.inference.interactive import Mode, region
from fewseg.inference.superpixels import WHOLE, Regions, Window, cut
from fewseg.server.engine.engine import Engine
from fewseg.server.engine.model import Recent
from fewseg.server.project.images import ImageEntry

MEMORY: Final = 64 << 20
"""Bytes of regions that are kept: of some fifty images."""


class Assistant:
    """Answers for the images of one engine; keeps the regions of those seen last."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._regions: Recent[Regions] = Recent(MEMORY)
        self._lock = threading.Lock()
        self._ahead = ThreadPoolExecutor(1, "fewseg-assist")

    def prepare(self, image: ImageEntry) -> None:
        """Cut the image up in the background, so that the first click is quick."""

        def quietly() -> None:
            with contextlib.suppress(FewsegError):  # said when somebody clicks
                self.regions(image)

        self._ahead.submit(quietly)

    def regions(self, image: ImageEntry, window: Window = WHOLE) -> Regions:
        """The regions of an image, or of a window of it; raises `InvalidImage`."""
        key = f"{image.identity} {window}"
        with self._lock:
            kept = self._regions.get(key)
            if kept is None:
                kept = cut(image.path, self._engine.features(image).regions, window)
                self._regions.put(key, kept)
            return kept

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
        """The mask (H, W), at the image's size, of what is meant; arguments as in
        `fewseg.inference.interactive.region`.

        Raises:
            InvalidImage: the image cannot be read. InvalidOption: nothing inside is marked.
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
