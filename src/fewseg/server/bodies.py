"""Bodies of requests: their size, number and speed are checked while they arrive, and JSON is parsed in a thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any, Final

from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewseg.server.api_errors import ApiError
from fewseg.server.limits import MEGABYTE, Limits

_GRACE: Final = 10.0
"""Seconds in which a body need not arrive at `_SLOWEST`."""
_SLOWEST: Final = 10_000
"""Bytes a second."""
_PATIENCE: Final = 1.0
"""Seconds after which a slower body gives way where as many as possible are arriving."""
_FILES: Final = ("multipart/", "image/", "application/octet-stream", "application/zip")
_CONTAINERS: Final = 500_000
_VALUES: Final = 8_000_000
"""Greatest numbers of lists and objects, and of values, in a JSON body, which take up to 100 times its memory."""


class Bodies:
    """The bodies that are arriving or being worked on."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: set[_Body] = set()

    async def pass_on(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app with a `receive` that raises `ApiError` where the body is too large or slow."""
        headers = Headers(scope=scope)
        if not ("transfer-encoding" in headers or headers.get("content-length", "0") != "0"):
            await app(scope, receive, send)
            return
        body = _Body(receive, self.limits, *_kind(scope, headers, self.limits))
        body.check_length(headers.get("content-length"))
        self._make_room()
        self._open.add(body)
        try:
            await app(scope, body.receive, send)
        finally:
            self._open.discard(body)

    def _make_room(self) -> None:
        """End the slowest body where there are too many; raises `ApiError` 503 where none is slow."""
        if len(self._open) < self.limits.uploads:
            return
        slow = [body for body in self._open if body.is_slow()]
        if not slow:
            raise ApiError(
                503, f"{len(self._open)} requests are arriving already: try again in a moment", retry_after=1
            )
        slowest = min(slow, key=lambda body: body.rate())
        slowest.give_up()
        self._open.discard(slowest)


class _Body:
    """One body."""

    def __init__(self, receive: Receive, limits: Limits, megabytes: int, is_json: bool) -> None:
        self._receive, self._limits, self._megabytes, self._is_json = receive, limits, megabytes, is_json
        self._start = asyncio.get_running_loop().time()
        self._arrived, self._containers, self._values = 0, 0, 0
        self._complete, self._given_up = False, False
        self._timeout: asyncio.Timeout | None = None

    def check_length(self, length: str | None) -> None:
        """Raise `ApiError` 400 or 413 for the announced length."""
        if length is not None and not (length.isascii() and length.isdigit()):
            raise ApiError(400, f"Content-Length is {length[:30]!r}: send a number")
        if length is not None and (len(length) > 18 or int(length) > self._megabytes * MEGABYTE):
            raise self._too_large()

    def rate(self) -> float:
        """Bytes a second until now."""
        return self._arrived / max(1e-3, asyncio.get_running_loop().time() - self._start)

    def is_slow(self) -> bool:
        """Whether it is arriving, for longer than `_PATIENCE`, at less than `_SLOWEST`."""
        waited = asyncio.get_running_loop().time() - self._start
        return not self._complete and waited > _PATIENCE and self.rate() < _SLOWEST

    def give_up(self) -> None:
        """Let `receive` raise now."""
        self._given_up = True
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())

    async def receive(self) -> Message:
        """The next message; raises `ApiError` 408 or 413."""
        if self._complete:  # only the disconnect is still to come
            return await self._receive()
        longest = min(self._limits.seconds, _GRACE + self._arrived / _SLOWEST)
        try:
            async with asyncio.timeout_at(0 if self._given_up else self._start + longest) as self._timeout:
                message = await self._receive()
        except TimeoutError:
            line = f"the request does not arrive within {self._limits.seconds:g} s or at {_SLOWEST // 1000} kB a second"
            raise ApiError(408, f"{line}: send it again, smaller or over a faster line") from None
        finally:
            self._timeout = None
        if message["type"] == "http.request":
            self._complete = not message.get("more_body", False)
            self._count(message.get("body", b""))
        return message

    def _count(self, part: bytes) -> None:
        self._arrived += len(part)
        if self._arrived > self._megabytes * MEGABYTE:
            raise self._too_large()
        if self._is_json:
            self._containers += part.count(b"[") + part.count(b"{")
            self._values += part.count(b",")
            if self._containers > _CONTAINERS or self._values > _VALUES:
                line = f"the JSON has over {_CONTAINERS} lists or {_VALUES} values"
                raise ApiError(413, f"{line}: send it in several requests")

    def _too_large(self) -> ApiError:
        what = "request of JSON" if self._is_json else "request"
        remedy = "send smaller or fewer images"
        return ApiError(413, f"the {what} has more than {self._megabytes} MB: {remedy}")


def _kind(scope: Scope, headers: Headers, limits: Limits) -> tuple[int, bool]:
    """The limit of a body in megabytes, and whether it is JSON, of which only Label Studio sends images and masks."""
    kind, path = headers.get("content-type", "").partition(";")[0].strip().lower(), scope["path"]
    is_mask = scope["method"] == "PUT" and "/annotations/" in path and not kind.endswith("json")
    if is_mask or kind.startswith(_FILES):
        return limits.request_mb, False
    is_large = path.startswith("/label-studio/")
    return limits.request_mb if is_large else min(limits.json_mb, limits.request_mb), not kind or kind.endswith("json")


class _JsonRequest(Request):
    """A request whose JSON is parsed in a thread: other requests are answered meanwhile."""

    async def json(self) -> Any:
        return await run_in_threadpool(json.loads, await self.body())


class JsonRoute(APIRoute):
    """A route that reads JSON; for routers as `route_class`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            return await inner(_JsonRequest(request.scope, request.receive))

        return handler
