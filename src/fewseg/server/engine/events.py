"""Server-sent events about changes, for any number of pages, in bounded memory.

A slow or suspended page has at most one pending event per image: newer ones replace older ones. Above `MAX_PENDING`
images the events are replaced by a single `project` event, which contains the whole project.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

MAX_PENDING: Final = 100
"""Pending image events per page."""

MAX_SUBSCRIBERS: Final = 64
"""Connected pages; beyond that the oldest connection is closed, and its page reconnects by itself."""

KEEP_ALIVE: Final = 15.0
"""Seconds without an event after which a comment line is sent, so that neither side times out."""


class Events:
    """The event stream of one engine; `image`, `progress`, `project` and `close` may be called from any thread."""

    def __init__(self) -> None:
        self.subscribers: list[Subscriber] = []
        self._lock = threading.Lock()
        self.number = 0
        """Number of the last event: its `id` in the stream."""

    def image(self, identifier: str) -> None:
        """Announce that an image has changed."""
        self._each(lambda subscriber: subscriber.put_image(identifier))

    def progress(self) -> None:
        """Announce that the progress has changed."""
        self._each(lambda subscriber: subscriber.put("progress"))

    def project(self) -> None:
        """Announce that anything may have changed."""
        self._each(lambda subscriber: subscriber.put("project"))

    def close(self) -> None:
        """End every stream."""
        self._each(lambda subscriber: subscriber.put("close"))

    def _each(self, put: Callable[[Subscriber], None]) -> None:
        with self._lock:
            self.number += 1
            subscribers = list(self.subscribers)
        for subscriber in subscribers:
            put(subscriber)

    async def listen(self, describe: Callable[[str, str | None], Any]) -> AsyncIterator[str]:
        """The stream of one page: first the whole project, then every change.

        `describe(kind, id)` returns the JSON value of a `project`, `picture` or `progress` event when it is sent, or
        None to skip it; it runs in a worker thread.
        """
        subscriber = Subscriber(asyncio.get_running_loop())
        subscriber.put("project")
        with self._lock:
            self.subscribers.append(subscriber)
            oldest = self.subscribers[:-MAX_SUBSCRIBERS]
        for other in oldest:
            other.put("close")
        try:
            yield "retry: 1000\n\n"
            while True:
                pending = await subscriber.take(KEEP_ALIVE)
                if not pending:
                    yield ": still here\n\n"
                for kind, identifier in pending:
                    if kind == "close":
                        return
                    value = await asyncio.to_thread(describe, kind, identifier)
                    if value is not None:
                        yield f"id: {self.number}\nevent: {kind}\ndata: {json.dumps(value)}\n\n"
        finally:
            with self._lock:
                self.subscribers.remove(subscriber)


class Subscriber:
    """The pending events of one page."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._wake, self._lock = loop, asyncio.Event(), threading.Lock()
        self._images: dict[str, None] = {}
        self._kinds: set[str] = set()

    def put_image(self, identifier: str) -> None:
        """Queue the event of an image."""
        with self._lock:
            if "project" in self._kinds:
                return  # contains it
            self._images[identifier] = None
            full = len(self._images) > MAX_PENDING
        self.put("project") if full else self._notify()

    def put(self, kind: str) -> None:
        """Queue a `progress`, `project` or `close` event; a `project` event replaces all others."""
        with self._lock:
            if kind == "project":
                self._images.clear()
                self._kinds.discard("progress")
            if not (kind == "progress" and "project" in self._kinds):
                self._kinds.add(kind)
        self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._wake.set)

    async def take(self, seconds: float) -> list[tuple[str, str | None]]:
        """The pending events (kind, image id) as soon as there is one; an empty list after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return []
        with self._lock:
            self._wake.clear()
            if "close" in self._kinds:
                return [("close", None)]
            pending: list[tuple[str, str | None]] = [("picture", i) for i in self._images]
            pending += [(kind, None) for kind in ("project", "progress") if kind in self._kinds]
            self._images.clear()
            self._kinds.clear()
        return pending
