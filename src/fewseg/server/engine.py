"""Finds the masks of a project's pictures in the background, what is on screen first.

One thread owns the model. After every change it plans anew: results that are known already, from before a restart or an
undo, are there at once, only examples that changed are encoded, and of a picture only labels whose examples changed are
found again. A picture under way stops at the next label when a change overtakes it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from fewseg.decoding import one_line
from fewseg.episodes.transforms import square_mask
from fewseg.errors import FewsegError, InvalidImage, InvalidMask
from fewseg.inputs import PreparedPicture
from fewseg.segmenter import Segmenter
from fewseg.server.engine_cache import Found, ResultCache
from fewseg.server.engine_model import EngineModel, PictureFeatures, Recent
from fewseg.server.engine_plan import Plan, Shot, plan
from fewseg.server.events import Events
from fewseg.server.project import Project
from fewseg.server.project_pictures import PictureFile
from fewseg.taught import LabelSupport

log = logging.getLogger(__name__)

T = TypeVar("T")

FEATURES: Final = 512 << 20
"""Bytes of pictures' features that are kept: of about a hundred pictures with the embedded model."""

SHOTS: Final = 512 << 20
"""Bytes of encoded examples that are kept beside those in use."""

LOOK_EVERY: Final = 3.0
"""Seconds between two looks at the folder, at least; twenty times as long as one takes, where that is longer."""

PATIENCE: Final = 120.0
"""Seconds that a request waits for the model's thread."""


class _Encoded:
    """An example in `Recent`."""

    def __init__(self, support: LabelSupport) -> None:
        self.support = support
        self.nbytes = sum(t.nbytes for s in support.sets for t in s.tensors.values())


class Engine:
    """The background work of one project; `start` it, and `close` it in the end."""

    def __init__(
        self, project: Project, segmenter: Segmenter, *, features: int = FEATURES, look_every: float = LOOK_EVERY
    ) -> None:
        """`features`: bytes of pictures' features to keep in memory; `look_every`: seconds, see `LOOK_EVERY`."""
        self.project, self.events = project, Events()
        self.model = EngineModel(segmenter)
        self.threshold = segmenter.presence_threshold
        self.cache = ResultCache(project.store.cache)
        self.shown: dict[tuple[str, int], Found] = {}
        """The last result of each picture and label, which a newer one may be on the way to replace."""
        self.working: frozenset[str] = frozenset()
        """Pictures that the model works on."""
        self.failed: dict[str, tuple[str, str]] = {}
        """Picture id to the file's identity and why it could not be segmented."""
        self.unusable: dict[str, str] = {}
        """Key of an example to why it could not be encoded."""
        self._features: Recent[PictureFeatures] = Recent(features)
        self._shots: Recent[_Encoded] = Recent(SHOTS)
        self._supports: dict[int, tuple[str, LabelSupport]] = {}
        self._pending: dict[str, None] = {}
        self._visible: tuple[str, ...] = ()
        self._asked: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._reading: dict[str, Future[PreparedPicture]] = {}
        self._wake = threading.Condition()
        self._dirty, self._closing = True, False
        self._seconds: float | None = None
        self._look_every, self._next_look = look_every, time.monotonic() + look_every
        self._plan = self._make_plan()
        self._readers = ThreadPoolExecutor(2, "fewseg-read")
        self._thread = threading.Thread(target=self._work, name="fewseg-engine", daemon=True)
        project.listen(self._changed)

    # ------------------------------------------------------------------------------------------ from any thread

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def close(self) -> None:
        """Stop, after the picture under way; then close the project."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread.is_alive():
            self._thread.join(PATIENCE)
        for _, future in self._asked:
            future.cancel()
        self._readers.shutdown(wait=False, cancel_futures=True)
        self.events.close()
        self.project.close()

    @property
    def plan(self) -> Plan:
        """What is to be done for the project as it is now."""
        current = self._plan
        state, pictures = self.project.state, self.project.pictures
        if current.state is state and current.pictures is pictures:
            return current
        return self._make_plan()

    def set_visible(self, identifiers: Sequence[str]) -> None:
        """Pictures to do first, in this order."""
        with self._wake:
            self._visible = tuple(dict.fromkeys(identifiers))
            self._wake.notify_all()

    def retry(self) -> None:
        """Look at the folder now, and try again what failed."""
        with self._wake:
            self.failed.clear()
            self.unusable.clear()
            self._next_look = 0.0
            self._dirty = True
            self._wake.notify_all()

    def check_example(self, mask: NDArray[np.bool_]) -> None:
        """Raise `InvalidMask` for a mask (H, W) of which nothing is left at the model's size."""
        for size in self.model.segmenter.input_sizes:
            if not (square_mask(mask.view(np.uint8), size) == 1).any():
                raise InvalidMask(
                    f"what is marked is too small for the model, which sees the picture at {size}x{size}: mark "
                    "more, or "
                    "crop the picture around it"
                )

    def forget(self, picture: str, label: int) -> None:
        """A result is lost: find it again."""
        with self._wake:
            self.shown.pop((picture, label), None)
            self._dirty = True
            self._wake.notify_all()

    def progress(self) -> dict[str, Any]:
        """The Progress of the page's protocol."""
        plan = self.plan
        total = sum(p.error is None for p in plan.pictures.values()) if plan.fingerprints else 0
        left = min(len(self._pending), total)
        usual = self._seconds
        return {
            "done": total - left,
            "total": total,
            "seconds_left": None if usual is None else round(left * usual, 1),
        }

    def ask(self, function: Callable[[], T]) -> T:
        """What `function` gives in the model's thread, where it runs next; raises what it raises.

        Raises `InvalidImage` where that takes too long, or the engine stops.
        """
        future: Future[T] = Future()
        with self._wake:
            if self._closing:
                raise InvalidImage("the server is stopping: start it again")
            self._asked.append((function, future))
            self._wake.notify_all()
        try:
            return future.result(PATIENCE)
        except FutureTimeout:
            future.cancel()
            raise InvalidImage(f"no answer within {PATIENCE:g} s: the model is busy, try again") from None

    def features(self, picture: PictureFile) -> PictureFeatures:
        """What the model sees in a picture; raises `InvalidImage`."""
        kept = self._features.get(picture.identity)  # a stale look is harmless: it is looked up again
        return kept if kept is not None else self.ask(lambda: self._features_of([picture])[0])

    def _changed(self) -> None:
        with self._wake:
            self._dirty = True
            self._wake.notify_all()
        self.events.project()

    def _make_plan(self) -> Plan:
        with self.project.lock:
            state, pictures = self.project.state, self.project.pictures
        return plan(state, pictures, self.model.fingerprint, self.unusable)

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
        pending, news = {}, False
        for picture in current.pictures.values():
            for label, key in current.wanted(picture).items():
                place = (picture.id, label)
                shown = self.shown.get(place)
                if shown is None or shown.key != key:
                    found = self.cache.found(key)
                    if found is None:
                        pending[picture.id] = None
                        continue
                    self.shown[place] = found
                    news = True
            if self.failed.get(picture.id, ("",))[0] == picture.identity:
                pending.pop(picture.id, None)
            else:
                self.failed.pop(picture.id, None)
        for place in [p for p in self.shown if p[0] not in current.pictures or p[1] not in current.fingerprints]:
            del self.shown[place]
        self._supports = {label: s for label, s in self._supports.items() if label in current.fingerprints}
        with self._wake:
            self._pending = pending
        if news:
            self.events.project()
        self.events.progress()

    def _next(self) -> list[PictureFile]:
        """The pictures to do now, together; further ones begin to be read."""
        visible = [i for i in self._visible if i in self._pending]
        order, ahead = [], self.model.batch + 4
        for identifier in (*visible, *self._pending):
            if identifier in self._plan.pictures and identifier not in order:
                order.append(identifier)
            if len(order) == ahead:
                break
        pictures = [self._plan.pictures[i] for i in order]
        for picture in pictures:
            self._read(picture)
        wanted = {picture.identity for picture in pictures}
        for identity in [i for i in self._reading if i not in wanted]:
            self._reading.pop(identity).cancel()
        return pictures[: self.model.batch]

    def _read(self, picture: PictureFile) -> None:
        if picture.identity not in self._reading and self._features.get(picture.identity) is None:
            self._reading[picture.identity] = self._readers.submit(self.model.prepare, picture.path)

    def _segment(self, pictures: Sequence[PictureFile]) -> None:
        begin, current = time.monotonic(), self._plan
        self._show_working(pictures)
        done = 0
        try:
            ready = self._with_features(pictures)
            for label, fingerprint in current.fingerprints.items():
                if self._dirty or self._closing:
                    break
                support = self._support(label, fingerprint, current.shots[label])
                if support is not None and ready:
                    self._find(label, ready, support, current)
            else:
                done = len(pictures)
        finally:
            self._show_working(())
            for picture in pictures:
                if not self._dirty:
                    with self._wake:
                        self._pending.pop(picture.id, None)
                self.events.picture(picture.id)
            if done:
                taken = (time.monotonic() - begin) / done
                self._seconds = taken if self._seconds is None else self._seconds + 0.2 * (taken - self._seconds)
            self.events.progress()

    def _show_working(self, pictures: Sequence[PictureFile]) -> None:
        self.working = frozenset(p.id for p in pictures)
        for picture in pictures:
            self.events.picture(picture.id)

    def _with_features(self, pictures: Sequence[PictureFile]) -> list[tuple[PictureFile, PictureFeatures]]:
        """The pictures that can be used, with their features; why the others cannot is noted."""
        ready = []
        for picture in pictures:
            try:
                self._read(picture)
                self._reading[picture.identity].result() if picture.identity in self._reading else None
                ready.append(picture)
            except Exception as error:
                self._reading.pop(picture.identity, None)
                self._fail(picture, error)
        try:
            return list(zip(ready, self._features_of(ready), strict=True))
        except Exception as error:
            if len(ready) == 1:
                self._fail(ready[0], error)
                return []
        return [pair for picture in ready for pair in self._with_features([picture])]

    def _features_of(self, pictures: Sequence[PictureFile]) -> list[PictureFeatures]:
        missing = [p for p in pictures if self._features.get(p.identity) is None]
        made: dict[str, PictureFeatures] = {}
        if missing:
            for picture in missing:
                self._read(picture)
            prepared = [self._reading.pop(p.identity).result() for p in missing]
            for picture, features in zip(missing, self.model.features(prepared), strict=True):
                made[picture.identity] = features
                self._features.put(picture.identity, features)
                self.cache.put_tokens(picture.identity + self.model.fingerprint, features.tokens.numpy())
        return [made.get(p.identity) or self._features.get(p.identity) for p in pictures]  # type: ignore[misc]

    def _find(
        self, label: int, ready: Sequence[tuple[PictureFile, PictureFeatures]], support: LabelSupport, current: Plan
    ) -> None:
        """Segment the pictures that lack this label's result, and show it."""
        todo = []
        for picture, features in ready:
            key = current.wanted(picture).get(label)
            shown = self.shown.get((picture.id, label))
            if key is not None and (shown is None or shown.key != key):
                todo.append((picture, features, key))
        if not todo:
            return
        try:
            coarse = self.model.coarse([features for _, features, _ in todo], support)
        except Exception as error:
            if len(todo) > 1:
                for picture, features, _ in todo:
                    self._find(label, [(picture, features)], support, current)
                return
            self._fail(todo[0][0], error)
            return
        for (picture, _, key), values in zip(todo, coarse, strict=True):
            self.shown[picture.id, label] = self.cache.put(key, values)

    def _support(self, label: int, fingerprint: str, shots: Sequence[Shot]) -> LabelSupport | None:
        """A label's examples, of which only new ones are encoded; None where one cannot be, and all is planned anew."""
        kept = self._supports.get(label)
        if kept is not None and kept[0] == fingerprint:
            return kept[1]
        parts = []
        for shot in shots:
            encoded = self._shots.get(shot.key)
            if encoded is None:
                try:
                    mask = self.project.store.read_mask(shot.annotation.file, shot.picture.size)
                    encoded = _Encoded(self.model.shot(shot.picture.path, mask))
                except Exception as error:
                    log.warning("%s: the example cannot be used: %s", shot.picture.path, error)
                    self.unusable[shot.key] = self._said(error, shot.picture)
                    self._dirty = True
                    self.events.picture(shot.picture.id)
                    return None
                self._shots.put(shot.key, encoded)
            parts.append(encoded.support)
        support = LabelSupport.concatenate(parts)
        self._supports[label] = (fingerprint, support)
        return support

    def _fail(self, picture: PictureFile, error: Exception) -> None:
        if not isinstance(error, FewsegError):
            log.warning("%s: unexpected error", picture.path, exc_info=error)
        self.failed[picture.id] = (picture.identity, self._said(error, picture))
        self._next_look = min(self._next_look, time.monotonic() + 0.5)  # it may be gone

    def _said(self, error: Exception, picture: PictureFile) -> str:
        text = (
            str(error) if isinstance(error, FewsegError) else f"{picture.shown_name} cannot be used ({one_line(error)})"
        )
        return text.replace(str(picture.path), picture.shown_name)
