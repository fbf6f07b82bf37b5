"""Predicts the masks of a project's images in the background, visible images first.

One thread owns the model. After every change it makes a new plan: cached results, from before a restart or an undo, are
available at once; only changed examples are encoded; and only labels whose examples changed are predicted again. A
change interrupts the current images after the current label. Labels with enough examples are adapted in another thread,
once the hand rests and what is on screen is predicted; see `fewseg.server.engine.adapter`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import FewsegError
from fewseg.inference.preprocess import prepare_mask
from fewseg.inference.segmenter import Segmenter
from fewseg.server.api_errors import ApiError
from fewseg.server.engine.adapter import REST_SECONDS, Adapter
from fewseg.server.engine.cache import ResultCache
from fewseg.server.engine.encoder import Encoder
from fewseg.server.engine.events import Events
from fewseg.server.engine.model import EngineModel, ImageFeatures
from fewseg.server.engine.plan import Plan, plan
from fewseg.server.engine.predictor import Predictor
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.project import Project
from fewseg.server.project.state import EXAMPLE

log = logging.getLogger(__name__)

T = TypeVar("T")

FEATURES: Final = 512 << 20
"""Limit of the image features kept in memory, in bytes: about a hundred images of the embedded model."""

SHOTS: Final = 512 << 20
"""Limit of the encoded examples kept beside those in use, in bytes."""

RESCAN_SECONDS: Final = 3.0
"""Least time between two scans of the folder; twenty times the duration of a scan where that is longer."""

_GIVE_WAY_SECONDS: Final = 30.0
"""Longest time that a fit waits for each of its steps."""

TIMEOUT: Final = 120.0
"""Longest time that a request waits for the model's thread, in seconds."""


class Engine:
    """The background predictions of one project: `start` it, and `close` it at the end."""

    def __init__(
        self,
        project: Project,
        segmenter: Segmenter,
        *,
        features: int = FEATURES,
        rescan_every: float = RESCAN_SECONDS,
        rest: float = REST_SECONDS,
    ) -> None:
        """`features`: bytes of image features to keep in memory; `rescan_every`: seconds, see `RESCAN_SECONDS`.

        `rest`: seconds before a label is adapted, see `REST_SECONDS`; infinity for never.
        """
        self.project, self.events = project, Events()
        self.model = EngineModel(segmenter)
        self.threshold = segmenter.presence_threshold
        self.cache = ResultCache(project.store.cache, scale=segmenter.presence_scale)
        self.working: frozenset[str] = frozenset()
        """Ids of the images being predicted."""
        self.encoder = Encoder(self.model, project.store, self.cache, features, SHOTS)
        self.predictor = Predictor(self.encoder, self.cache)
        self._pending: dict[str, None] = {}
        self._visible: tuple[str, ...] = ()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._plan_outdated, self._closing = True, False
        self._seconds: float | None = None
        self.adapter = Adapter(self.model, self.cache, rest, give_way=self._give_way, changed=self._fitted)
        self._rescan_every, self._next_rescan = rescan_every, time.monotonic() + rescan_every
        self._plan = self._make_plan()
        self._thread = threading.Thread(target=self._work, name="fewseg-engine", daemon=True)
        project.listen(self._changed)

    # ------------------------------------------------------------------------------------------ from any thread

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the current image, then close the project."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self.adapter.close()
        if self._thread.is_alive():
            self._thread.join(TIMEOUT)
        for _, future in self._calls:
            future.cancel()
        self.encoder.close()
        self.events.close()
        self.project.close()

    @property
    def plan(self) -> Plan:
        """The plan for the current state of the project."""
        current = self._plan
        if current.state is self.project.state and current.images is self.project.images:
            return current
        return self._make_plan()

    def set_visible(self, identifiers: Sequence[str]) -> None:
        """Predict these images first, in this order."""
        with self._wake:
            self._visible = tuple(dict.fromkeys(identifiers))
            self._wake.notify_all()

    def retry(self) -> None:
        """Scan the folder now, and retry failed images and examples."""
        with self._wake:
            self.predictor.clear_failures()
            self._next_rescan = 0.0
            self._plan_outdated = True
            self._wake.notify_all()

    def check_example(self, mask: NDArray[np.bool_]) -> None:
        """Raise `InvalidMask` for a mask (H, W) that becomes empty at the model's input size."""
        prepare_mask(mask.view(np.uint8), self.model.segmenter.input_sizes)

    def predict_again(self, image: str, label: int) -> None:
        """Drop a result whose file is lost, and predict it again."""
        with self._wake:
            self.predictor.results.pop((image, label), None)
            self._plan_outdated = True
            self._wake.notify_all()

    @property
    def left(self) -> int:
        """Number of images still to predict by the last plan."""
        return len(self._pending)

    def seconds_left(self, images: int) -> float | None:
        """Estimated time for a number of images; None before the first one is done."""
        return None if self._seconds is None else round(images * self._seconds, 1)

    def call(self, function: Callable[[], T]) -> T:
        """The result of `function`, run next in the model's thread; raises what it raises.

        Raises `ApiError` after `TIMEOUT`, or when the engine stops.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._closing:
                raise ApiError(503, "the server is stopping: start it again")
            self._calls.append((function, future))
            self._wake.notify_all()
        try:
            return future.result(TIMEOUT)
        except FutureTimeout:
            future.cancel()
            raise ApiError(503, f"no answer within {TIMEOUT:g} s: the model is busy, try again") from None

    def features(self, image: ImageEntry) -> ImageFeatures:
        """The features of an image; raises `InvalidImage`."""
        cached = self.encoder.cached(image)
        return cached if cached is not None else self.call(lambda: self.encoder.features([image])[0])

    def _changed(self) -> None:
        self.adapter.touch()
        self._fitted()

    def _fitted(self) -> None:
        with self._wake:
            self._plan_outdated = True
            self._wake.notify_all()
        self.events.project()

    def _make_plan(self) -> Plan:
        with self.project.lock:
            state, images = self.project.state, self.project.images
        return plan(state, images, self.model.fingerprint, self.predictor.unusable, self.adapter.fits)

    # ------------------------------------------------------------------------------------------ the model's thread

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._closing or self._urgent() or self._pending or self._rescan_due() or self._fit_due()):
                    rescan = self._next_rescan - time.monotonic()
                    self._wake.wait(max(0.05, min(rescan, self.adapter.seconds_to_fit(self._plan))))
                if self._closing:
                    return
                call = self._calls.popleft() if self._calls else None
            try:
                if call is not None:
                    self._run(*call)
                elif self._plan_outdated:
                    self._replan()
                elif self._rescan_due():
                    self._rescan()
                elif self._fit_due():  # not started where an example is unusable: the next plan is without it
                    self._plan_outdated |= not self.adapter.start(self._plan, self.predictor.support)
                    self.events.project()
                else:
                    self._segment(self._next())
            except Exception:  # the thread must survive every failure
                log.exception("the engine failed on one step")
                time.sleep(0.2)

    def _run(self, function: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    def _rescan_due(self) -> bool:
        return time.monotonic() >= self._next_rescan

    def _rescan(self) -> None:
        begin = time.monotonic()
        try:
            self.project.rescan()
        except FewsegError as error:
            log.warning("%s", error)
        now = time.monotonic()
        self._next_rescan = now + max(self._rescan_every, 20 * (now - begin))

    def _replan(self) -> None:
        """Make a new plan, and take its results from the cache."""
        self._plan_outdated = False
        self._plan = current = self._make_plan()
        if self.adapter.restore(current):
            self._plan = current = self._make_plan()
            self.events.project()
        pending, changed = self.predictor.adopt(current)
        with self._wake:
            self._pending = pending
        if changed:
            self.events.project()
        self.events.progress()

    def _urgent(self) -> bool:
        """Whether something is to be done at once; the lock must be held."""
        return bool(self._plan_outdated or self._calls)

    def _fit_due(self) -> bool:
        """Whether to fit a label now: one is due, the hand rests and what is on screen is predicted."""
        return not self._screen_pending() and self.adapter.seconds_to_fit(self._plan) == 0

    def _screen_pending(self) -> bool:
        return any(image in self._pending for image in self._visible)

    def _give_way(self) -> None:
        """Wait, in the thread of a fit, until nothing is urgent and what is on screen is predicted."""
        with self._wake:
            self._wake.wait_for(
                lambda: self._closing or not (self._urgent() or self._screen_pending()), _GIVE_WAY_SECONDS
            )

    def _next(self) -> list[ImageEntry]:
        """The images of the next batch; a few further ones start to be read."""
        visible = [i for i in self._visible if i in self._pending]
        queued = (i for i in dict.fromkeys((*visible, *self._pending)) if i in self._plan.images)
        images = [self._plan.images[i] for i in islice(queued, self.model.batch + 4)]
        self.encoder.read_ahead(images)
        return images[: self.model.batch]

    def _segment(self, images: Sequence[ImageEntry]) -> None:
        begin = time.monotonic()
        self._set_working(images)
        complete = False
        try:
            complete = self.predictor.predict(images, self._plan, lambda: self._plan_outdated or self._closing)
            if not complete:
                self._plan_outdated = True
        except Exception as error:  # unexpected: do not retry for ever
            for image in images:
                self.predictor.fail(image, error)
        if any(image.id in self.predictor.failed for image in images):
            self._next_rescan = min(self._next_rescan, time.monotonic() + 0.5)  # the file may be gone
        if not self._plan_outdated:  # otherwise the next plan says what is left
            with self._wake:
                for image in images:
                    self._pending.pop(image.id, None)
                self._wake.notify_all()  # a fit may wait for them
        if complete:
            taken = (time.monotonic() - begin) / len(images)
            self._seconds = taken if self._seconds is None else self._seconds + 0.2 * (taken - self._seconds)
        self._set_working(())
        for image in images:
            self.events.image(image.id)
        self.events.progress()
        if not self._pending and any(a.kind != EXAMPLE for a in self._plan.state.annotations.values()):
            self.events.project()  # scores of checked images set from where on a label is present in the others

    def _set_working(self, images: Sequence[ImageEntry]) -> None:
        self.working = frozenset(p.id for p in images)
        for image in images:
            self.events.image(image.id)
