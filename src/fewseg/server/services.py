"""The model, request queue and limits that all routes share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

from PIL import Image

from fewseg.server.limits import Limits
from fewseg.server.model import ServedModel
from fewseg.server.queue import RequestQueue
from fewseg.server.uploads import open_upload


@dataclass(frozen=True)
class Services:
    """What a route needs to answer a request."""

    model: ServedModel
    queue: RequestQueue
    limits: Limits

    def open_image(self, file: IO[bytes]) -> Image.Image:
        """An uploaded image, header read, pixels not decoded yet; raises `ApiError` 413 or 422."""
        return open_upload(file, "image", self.limits)

    def open_mask(self, file: IO[bytes]) -> Image.Image:
        """An uploaded mask, likewise."""
        return open_upload(file, "mask", self.limits)
