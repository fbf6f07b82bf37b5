"""Limits on the resources that clients of the server can use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from fewseg.core.errors import InvalidOption

MEGABYTE: Final = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits for all clients together, unless the field says otherwise."""

    request_mb: int = 64
    """Megabytes of one request; larger ones are cut off while they arrive."""
    json_mb: int = 1
    """Megabytes of one request of JSON; those of Label Studio may have request-mb."""
    megapixels: int = 64
    """Megapixels of one image; larger ones are refused before they are decoded."""
    seconds: float = 120.0
    """Seconds that a request may take to arrive, and again to be answered once it has arrived; for one of Label Studio
    to be answered, times its tasks."""
    header_seconds: float = 15.0
    """Seconds in which a connection must send a whole header, counted from its last answer."""
    running: int = 1
    """Requests that compute at the same time."""
    waiting: int = 16
    """Requests that wait for those; further ones are refused with 503 and Retry-After."""
    uploads: int = 32
    """Requests with a body that are received at the same time."""
    sessions: int = 32
    """Sessions of the API at the same time."""
    idle_minutes: float = 60.0
    """Minutes without a request after which a session is deleted."""
    labels: int = 50
    """Labels of one session."""
    shots: int = 200
    """Examples of one session."""
    marks: int = 50
    """Prompts (boxes, points, scribbles) of one request; each takes up to seconds in the largest images."""
    places: int = 5000
    """Points of one request, those of its scribbles included."""
    taught_mb: int = 2048
    """Megabytes of encoded examples, in all sessions."""

    def __post_init__(self) -> None:
        """Raise `InvalidOption` for a limit that no request could pass."""
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "waiting" else 1e-9
            if not value >= least:
                raise InvalidOption(f"limit {field.name.replace('_', '-')} is {value}: give a positive number")

    @property
    def request_bytes(self) -> int:
        return self.request_mb * MEGABYTE

    @property
    def pixels(self) -> int:
        return self.megapixels * 1_000_000

    @property
    def taught_bytes(self) -> int:
        return self.taught_mb * MEGABYTE

    @property
    def idle_seconds(self) -> float:
        return self.idle_minutes * 60
