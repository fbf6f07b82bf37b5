"""Finds the masks of a project's images in the background, what is on screen first.

One thread owns the model. After every change it plans anew: results that are known already, from before a restart or an
undo, are there at once, only examples that changed are encoded, and of an image only labels whose examples changed are
found again. An image under way stops at the next label when a change overtakes it.
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

from fewseg.core.errors import FewsegError, InvalidMask
from fewseg.images.transforms import square_mask
from fewseg.inference.segmenter import Segmenter
from fewseg.server.engine.cache import ResultCache
from fewseg.server.engine.encoder import Encoder
from fewseg.server.engine.events import Events
from fewseg.server.engine.model import EngineModel, ImageFeatures
from fewseg.server.engine.plan import Plan, plan
from fewseg.server.engine.predictor import Finder
from fewseg.server.problems import Problem
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.project import Project

log = logging.getLogger(__name__)

T = TypeVar("T")

FEATURES: Final = 512 << 20
"""Bytes of images' features that are kept: of about a hundred images with the embedded model."""

SHOTS: Final = 512 << 20
"""Bytes of encoded examples that are kept beside those in use."""

LOOK_EVERY: Final = 3.0
"""Seconds between two looks at the folder, at least; twenty times as long as one takes, where that is longer."""

PATIENCE: Final = 120.0
"""Seconds that a request waits for the model's thread."""


class Engine:
    """The background work of one project; `start` it, and `close` it in the end."""

    def __init__(
        self, project: Project, segmenter: Segmenter, *, features: int = FEATURES, look_every: float = LOOK_EVERY
    ) -> None:
        """`features`: bytes of images' features to keep in memory; `look_every`: seconds, see `LOOK_EVERY`."""
        self.project, self.events = project, Events()
        self.model = EngineModel(segmenter)
        self.threshold = segmenter.presence_threshold
        self.cache = ResultCache(project.store.cache, scale=segmenter.presence_scale)
        self.working: frozenset[str] = frozenset()
        """Images that the model works on."""
        self.encoder = Encoder(self.model, project.store, self.cache, features, SHOTS)
        self.finder = Finder(self.encoder, self.cache)
        self._pending: dict[str, None] = {}
        self._visible: tuple[str, ...] = ()
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._wake = threading.Condition()
        self._dirty, self._closing = True, False
        self._seconds: float | None = None
        self._look_every, self._next_look = look_every, time.monotonic() + look_every
        self._plan = self._make_plan()
        self._thread = threading.Thread(target=self._work, name="fewseg-engine", daemon=True)
        project.listen(self._changed)

    # ------------------------------------------------------------------------------------------ from any thread

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Stop, after the image under way; then close the project."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        for _, future in self._asked:
            future.cancel()
        self.encoder.close()
        self.events.close()
        self.project.close()

    @property
    def plan(self) -> Plan:
        """What is to be done for the project as it is now."""
        current = self._plan
        state, pictures = self.project.state, self.project.images
        if current.state is state and current.images is pictures:
            return current
        return self._make_plan()

    def set_visible(self, identifiers: Sequence[str]) -> None:
        """Images to do first, in this order."""
        with self._wake:
            self._visible = tuple(dict.fromkeys(identifiers))
            self._wake.notify_all()

    def retry(self) -> None:
        """Look at the folder now, and try again what failed."""
        with self._wake:
            self.finder.forget_failures()
            self._next_look = 0.0
            self._dirty = True
            self._wake.notify_all()

    def check_example(self, mask: NDArray[np.bool_]) -> None:
        """Raise `InvalidMask` for a mask (H, W) of which nothing is left at the model's size."""
        for size in self.model.segmenter.input_sizes:
            if not (square_mask(mask.view(np.uint8), size) == 1).any():
                raise InvalidMask(
                    f"what is marked is too small for the model, which sees the image at {size}x{size}: mark "
                    "more, or "
                    "crop the image around it"
                )

    def forget(self, image: str, label: int) -> None:
        """A result is lost: find it again."""
        with self._wake:
            self.finder.shown.pop((image, label), None)
            self._dirty = True
            self._wake.notify_all()

    @property
    def left(self) -> int:
        """Images that have to be done still, as far as it has been found out."""
        return len(self._pending)

    def seconds_left(self, images: int) -> float | None:
        """How long so many images take; None as long as none was done."""
        return None if self._seconds is None else round(images * self._seconds, 1)

    def ask(self, function: Callable[[], T]) -> T:
        """What `function` gives in the model's thread, where it runs next; raises what it raises.

        Raises `Problem` where that takes too long, or the engine stops.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._closing:
                raise Problem(503, "the server is stopping: start it again")
            self._asked.append((function, future))
            self._wake.notify_all()
        try:
            return future.result(PATIENCE)
        except FutureTimeout:
            future.cancel()
            raise Problem(503, f"no answer within {PATIENCE:g} s: the model is busy, try again") from None

    def features(self, image: ImageEntry) -> ImageFeatures:
        """What the model sees in an image; raises `InvalidImage`."""
        kept = self.encoder.kept(image)
        return kept if kept is not None else self.ask(lambda: self.encoder.features([image])[0])

    def _changed(self) -> None:
        with self._wake:
            self._dirty = True
            self._wake.notify_all()
        self.events.project()

    def _make_plan(self) -> Plan:
        with self.project.lock:
            state, pictures = self.project.state, self.project.images
        return plan(state, pictures, self.model.fingerprint, self.finder.unusable)

    # ------------------------------------------------------------------------------------------ the model's thread

    def _work(self) -> None:
        while True:
            with self._wake:
                while not (self._closing or self._dirty or self._asked or self._pending or self._look_due()):
                    self._wake.wait(max(0.05, self._next_look - time.monotonic()))
                if self._closing:
                    return
                asked = self._asked.popleft() if self._asked else None
            try:
                if asked is not None:
                    self._answer(*asked)
                elif self._dirty:
                    self._replan()
                elif self._look_due():
                    self._look()
                else:
                    self._segment(self._next())
            except Exception:  # the thread must outlive whatever it meets
                log.exception("the engine failed on one step")
                time.sleep(0.2)

    def _answer(self, function: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    def _look_due(self) -> bool:
        return time.monotonic() >= self._next_look

    def _look(self) -> None:
        begin = time.monotonic()
        try:
            self.project.rescan()
        except FewsegError as error:
            log.warning("%s", error)
        now = time.monotonic()
        self._next_look = now + max(self._look_every, 20 * (now - begin))

    def _replan(self) -> None:
        """Find out what is to be done; show what is known already."""
        self._dirty = False
        self._plan = current = self._make_plan()
        pending, news = self.finder.follow(current)
        with self._wake:
            self._pending = pending
        if news:
            self.events.project()
        self.events.progress()

    def _next(self) -> list[ImageEntry]:
        """The images to do now, together; further ones begin to be read."""
        visible = [i for i in self._visible if i in self._pending]
        here = (i for i in dict.fromkeys((*visible, *self._pending)) if i in self._plan.images)
        images = [self._plan.images[i] for i in islice(here, self.model.batch + 4)]
        self.encoder.read_ahead(images)
        return images[: self.model.batch]

    def _segment(self, images: Sequence[ImageEntry]) -> None:
        begin = time.monotonic()
        self._show_working(images)
        whole = False
        try:
            whole = self.finder.find(images, self._plan, lambda: self._dirty or self._closing)
            if not whole:
                self._dirty = True
        except Exception as error:  # nothing foreseen: not to be tried for ever
            for image in images:
                self.finder.fail(image, error)
        if any(image.id in self.finder.failed for image in images):
            self._next_look = min(self._next_look, time.monotonic() + 0.5)  # it may be gone
        if not self._dirty:  # else what is left is found out anew
            with self._wake:
                for image in images:
                    self._pending.pop(image.id, None)
        if whole:
            taken = (time.monotonic() - begin) / len(images)
            self._seconds = taken if self._seconds is None else self._seconds + 0.2 * (taken - self._seconds)
        self._show_working(())
        for image in images:
            self.events.image(image.id)
        self.events.progress()

    def _show_working(self, images: Sequence[ImageEntry]) -> None:
        self.working = frozenset(p.id for p in images)
        for image in images:
            self.events.image(image.id)
