"""The model, request queue and limits that all routes share."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import IO, Final

from PIL import Image

from fewseg.server.api_errors import ApiError
from fewseg.server.limits import Limits
from fewseg.server.model import ServedModel
from fewseg.server.queue import RequestQueue
from fewseg.server.uploads import open_upload, tell_several

_FIT_FACTOR: Final = 5
"""How many times longer than other requests one may wait that adapts a label."""


@dataclass(frozen=True)
class Services:
    """What a route needs to answer a request."""

    model: ServedModel
    queue: RequestQueue
    limits: Limits
    fits: RequestQueue
    """For adapting labels, which takes long: one at a time, beside other requests."""
    closing: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def of(cls, model: ServedModel, limits: Limits) -> Services:
        """Services with queues of their own."""
        longer = replace(limits, running=1, seconds=_FIT_FACTOR * limits.seconds)
        return cls(model, RequestQueue(limits), limits, RequestQueue(longer))

    def close(self) -> None:
        """Cancel the waiting requests, and break off the fit that is under way."""
        self.closing.set()
        self.queue.close()
        self.fits.close()

    def check_open(self, done: int, total: int, last: str) -> None:
        """A `ProgressCallback` that raises `ApiError` when the server stops."""
        if self.closing.is_set():
            raise ApiError(503, "the server is stopping: start it again")

    def open_image(self, file: IO[bytes], notes: list[str] | None = None) -> Image.Image:
        """An uploaded image, header read, pixels not decoded yet; raises `ApiError` 413 or 422.

        Of several in the file the first is opened, which `notes` say, or the log where there are none.
        """
        return self._opened(file, "image", notes)

    def open_mask(self, file: IO[bytes], notes: list[str] | None = None) -> Image.Image:
        """An uploaded mask, likewise."""
        return self._opened(file, "mask", notes)

    def _opened(self, file: IO[bytes], kind: str, notes: list[str] | None) -> Image.Image:
        image = open_upload(file, kind, self.limits)
        tell_several(image, kind, notes)
        return image
