"""A bounded queue in front of the model."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from fewseg.server.limits import Limits
from fewseg.server.problems import Problem

P = ParamSpec("P")
T = TypeVar("T")


class Gate:
    """Runs at most `limits.running` functions at a time, keeps `limits.waiting` more, turns the others away."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.busy = 0
        """How many run or wait."""
        self._lock = threading.Lock()
        self._workers: ThreadPoolExecutor | None = None
        self._usual = 1.0
        """Seconds that one takes, smoothed: what clients that are turned away are told to wait is made of it."""

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns or raises.

        Raises `Problem` 503 when the queue is full, or after `limits.seconds`. A function that runs cannot be stopped:
        it then keeps its place until it ends, so that no more than `limits.running` ever run.
        """
        future = self._submit(lambda: function(*args, **kwargs))
        try:
            async with asyncio.timeout(self.limits.seconds):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            if future.done() and not future.cancelled():
                return future.result()  # it was the function's own
            raise Problem(
                503,
                f"no answer within {self.limits.seconds:g} s: try again later, or send a smaller image",
                retry_after=self._usual * max(1, self.busy),
            ) from None

    def _submit(self, function: Callable[[], T]) -> Future[T]:
        with self._lock:
            if self.busy >= self.limits.running + self.limits.waiting:
                wait = self._usual * self.busy / self.limits.running
                raise Problem(503, f"{self.busy} requests are waiting already: try again in a moment", retry_after=wait)
            self.busy += 1
            if self._workers is None:
                self._workers = ThreadPoolExecutor(self.limits.running, "fewseg-work")
            workers = self._workers
        try:
            future = workers.submit(self._timed, function)
        except BaseException:
            self._leave(None)
            raise
        future.add_done_callback(self._leave)
        return future

    def _timed(self, function: Callable[[], T]) -> T:
        start = time.monotonic()
        try:
            return function()
        finally:
            self._usual += 0.2 * (time.monotonic() - start - self._usual)

    def _leave(self, future: Future[Any] | None) -> None:
        with self._lock:
            self.busy -= 1

    def close(self) -> None:
        """Let go of what waits; what runs ends by itself. Another request opens the gate again."""
        with self._lock:
            workers, self._workers = self._workers, None
        if workers is not None:
            workers.shutdown(wait=False, cancel_futures=True)
