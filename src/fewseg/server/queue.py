"""A bounded queue of requests in front of the model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from fewseg.server.api_errors import ApiError
from fewseg.server.limits import Limits

P = ParamSpec("P")
T = TypeVar("T")


class RequestQueue:
    """Runs at most `limits.running` functions at a time, queues `limits.waiting` more, and rejects further ones."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.busy = 0
        """Number of functions that run or wait."""
        self._lock = threading.Lock()
        self._workers: ThreadPoolExecutor | None = None
        self._mean_seconds = 1.0
        """Moving average of a request's duration; the basis of Retry-After."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of `function`, run in a worker thread; raises what it raises.

        Raises `ApiError` 503 when the queue is full, or after `limits.seconds`. A running function cannot be stopped
        and occupies its place until it ends, so that no more than `limits.running` ever run.
        """
        future = self._submit(lambda: function(*args, **kwargs))
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # the function's own TimeoutError
            raise ApiError(
                503,
                f"no answer within {self.limits.seconds:g} s: try again later, or send a smaller image",
                retry_after=self._mean_seconds * max(1, self.busy),
            ) from None

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self.busy >= self.limits.running + self.limits.waiting:
                wait = self._mean_seconds * self.busy / self.limits.running
                raise ApiError(
                    503, f"{self.busy} requests are waiting already: try again in a moment", retry_after=wait
                )
            self.busy += 1
            if self._workers is None:
                self._workers = ThreadPoolExecutor(self.limits.running, "fewseg-work")
            workers = self._workers
        try:
            future = workers.submit(self._timed, function)
        except BaseException:
            self._release(None)
            raise
        future.add_done_callback(self._release)
        return future

    def _timed(self, function: Callable[[], T]) -> T:
        start = time.monotonic()
        try:
            return function()
        finally:
            self._mean_seconds += 0.2 * (time.monotonic() - start - self._mean_seconds)

    def _release(self, future: Future[Any] | None) -> None:
        with self._lock:
            self.busy -= 1

    def close(self) -> None:
        """Cancel the waiting functions; running ones end by themselves. A later request opens the queue again."""
        with self._lock:
            workers, self._workers = self._workers, None
        if workers is not None:
            workers.shutdown(wait=False, cancel_futures=True)
