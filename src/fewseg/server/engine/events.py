"""Server-sent events: what changed, to any number of pages, in bounded memory.

A page that is slow, or sleeps, has at most one waiting event an image: newer ones replace older ones. When more than
`MOST_WAITING` images wait, they are dropped for a single `project` event, which holds everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

MOST_WAITING: Final = 100
"""Images that wait for one page."""

MOST_CLIENTS: Final = 64
"""Pages that listen; of more, the one that has listened longest is let go, and comes again by itself."""

PAUSE: Final = 15.0
"""Seconds after which a line is sent that means nothing, so that neither side takes the other for gone."""


class Events:
    """What the engine publishes and pages listen to; `publish` and `project_changed` may be called from any thread."""

    def __init__(self) -> None:
        self._clients: list[Client] = []
        self._lock = threading.Lock()
        self.number = 0
        """Of the last event."""

    def image(self, identifier: str) -> None:
        """That image has changed."""
        self._each(lambda client: client.put_image(identifier))

    def progress(self) -> None:
        """The progress has changed."""
        self._each(lambda client: client.put("progress"))

    def project(self) -> None:
        """Anything may have changed."""
        self._each(lambda client: client.put("project"))

    def close(self) -> None:
        """Let every page go."""
        self._each(lambda client: client.put("close"))

    def _each(self, put: Callable[[Client], None]) -> None:
        with self._lock:
            self.number += 1
            clients = list(self._clients)
        for client in clients:
            put(client)

    async def listen(self, describe: Callable[[str, str | None], Any]) -> AsyncIterator[str]:
        """The stream for one page: the whole project at first, then what changes.

        `describe(kind, id)` gives the JSON value of a `project`, `picture` or `progress` event at the time it is sent,
        None for nothing to say; it runs in a worker thread.
        """
        client = Client(asyncio.get_running_loop())
        client.put("project")
        with self._lock:
            self._clients.append(client)
            gone = self._clients[:-MOST_CLIENTS]
        for other in gone:
            other.put("close")
        try:
            yield "retry: 1000\n\n"
            while True:
                waiting = await client.take(PAUSE)
                if not waiting:
                    yield ": still here\n\n"
                for kind, identifier in waiting:
                    if kind == "close":
                        return
                    value = await asyncio.to_thread(describe, kind, identifier)
                    if value is not None:
                        yield f"id: {self.number}\nevent: {kind}\ndata: {json.dumps(value)}\n\n"
        finally:
            with self._lock:
                self._clients.remove(client)


class Client:
    """What waits for one page."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop, self._wake, self._lock = loop, asyncio.Event(), threading.Lock()
        self._pictures: dict[str, None] = {}
        self._kinds: set[str] = set()

    def put_image(self, identifier: str) -> None:
        """Let the page know of an image."""
        with self._lock:
            if "project" in self._kinds:
                return  # holds it
            self._pictures[identifier] = None
            full = len(self._pictures) > MOST_WAITING
        self.put("project") if full else self._woken()

    def put(self, kind: str) -> None:
        """Let the page know of the progress, or of the whole project, which holds all else."""
        with self._lock:
            if kind == "project":
                self._pictures.clear()
                self._kinds.discard("progress")
            if not (kind == "progress" and "project" in self._kinds):
                self._kinds.add(kind)
        self._woken()

    def _woken(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the page with it
            self._loop.call_soon_threadsafe(self._wake.set)

    async def take(self, seconds: float) -> list[tuple[str, str | None]]:
        """What waits, as soon as anything does; nothing after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return []
        with self._lock:
            self._wake.clear()
            if "close" in self._kinds:
                return [("close", None)]
            waiting: list[tuple[str, str | None]] = [("picture", i) for i in self._pictures]
            waiting += [(kind, None) for kind in ("project", "progress") if kind in self._kinds]
            self._pictures.clear()
            self._kinds.clear()
        return waiting
