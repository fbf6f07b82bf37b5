"""Connections of the server: a client that sends nothing, or half a header, is not waited for.

Whoever connects needs no token for that, so such connections end after a while, and the longest-waiting ones at once
when there are many. Those whose request has arrived are never closed here.
"""

from __future__ import annotations

import asyncio
import importlib.util
from typing import Any, Final

import uvicorn

from fewseg.server.limits import Limits

_MOST: Final = 1000
"""Greatest number of connections that wait for a request; fewer where the system allows few open files."""


def server_config(app: Any, limits: Limits, **options: Any) -> uvicorn.Config:
    """The configuration of uvicorn for the app: no WebSockets, and connections as described above."""
    seconds = limits.header_seconds
    return uvicorn.Config(
        app,
        http=_timed_protocol(seconds, min(_MOST, max(16, _open_files() // 4))),
        ws="none",
        server_header=False,
        timeout_keep_alive=max(1, round(seconds)),
        **options,
    )


def _open_files() -> int:
    """The number of files that this process may have open."""
    if importlib.util.find_spec("resource") is None:  # Windows
        return 4 * _MOST
    import resource

    return int(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _protocol() -> Any:
    if importlib.util.find_spec("httptools") is not None:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        return HttpToolsProtocol
    from uvicorn.protocols.http.h11_impl import H11Protocol

    return H11Protocol


def _timed_protocol(seconds: float, most: int) -> type[asyncio.Protocol]:
    """The protocol of uvicorn that closes a connection where no whole header arrives within `seconds`."""
    waiting: dict[Any, asyncio.TimerHandle] = {}
    base: Any = _protocol()

    class TimedProtocol(base):  # type: ignore[misc]
        """Belongs to `waiting`, in order of time, from the connection or last answer to the next whole header."""

        answered = False

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()
            elif self.answered:  # the first bytes of another header
                self.answered = False
                self._wait()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.cycle.response_complete and not self.transport.is_closing():
                self.answered = True
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop()
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._stop()
            if len(waiting) >= most:
                next(iter(waiting))._give_up()
            waiting[self] = self.loop.call_later(seconds, self._give_up)

        def _stop(self) -> None:
            timer = waiting.pop(self, None)
            if timer is not None:
                timer.cancel()

        def _give_up(self) -> None:
            self._stop()
            self.transport.close()

    return TimedProtocol
