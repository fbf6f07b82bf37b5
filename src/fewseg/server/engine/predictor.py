"""Finds the masks of a few pictures at a time, and notes what cannot be; belongs to the model's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from fewseg.core.errors import FewsegError, one_line
from fewseg.inference.supports import LabelSupport
from fewseg.server.engine.cache import Found, ResultCache
from fewseg.server.engine.encoder import Encoder, Unusable
from fewseg.server.engine.model import PictureFeatures
from fewseg.server.engine.plan import Plan
from fewseg.server.project.images import PictureFile

log = logging.getLogger(__name__)

_Ready: TypeAlias = tuple[PictureFile, PictureFeatures]


class Finder:
    """Results, by picture and label, and what stood in the way of others; read from any thread."""

    def __init__(self, encoder: Encoder, cache: ResultCache) -> None:
        self.encoder, self.cache = encoder, cache
        self.shown: dict[tuple[str, int], Found] = {}
        """The last result of each picture and label, which a newer one may be on the way to replace."""
        self.failed: dict[str, tuple[str, str]] = {}
        """Picture id to the file's identity and why it could not be segmented."""
        self.unusable: dict[str, str] = {}
        """Key of an example to why it could not be encoded."""

    def find(self, pictures: Sequence[PictureFile], plan: Plan, overtaken: Callable[[], bool]) -> bool:
        """Find every label of the plan in the pictures, as far as it is not known.

        Stops between two labels when `overtaken`, or when an example proves unusable: False then, and a new plan is
        needed.
        """
        ready = self._with_features(pictures)
        for label, fingerprint in plan.fingerprints.items():
            if overtaken():
                return False
            try:
                support = self.encoder.support(label, fingerprint, plan.shots[label])
            except Unusable as error:
                shot, cause = error.shot, error.__cause__
                log.warning("%s: the example cannot be used: %s", shot.picture.path, cause)
                self.unusable[shot.key] = _said(cause, shot.picture)
                return False
            self._find_label(label, ready, support, plan)
        return True

    def _with_features(self, pictures: Sequence[PictureFile]) -> list[_Ready]:
        """The pictures that can be used, with their features; why the others cannot is noted."""
        ready = []
        for picture in pictures:
            try:
                self.encoder.wait(picture)
                ready.append(picture)
            except Exception as error:
                self.fail(picture, error)
        try:
            return list(zip(ready, self.encoder.features(ready), strict=True))
        except Exception as error:
            if len(ready) == 1:
                self.fail(ready[0], error)
                return []
        return [pair for picture in ready for pair in self._with_features([picture])]

    def _find_label(self, label: int, ready: Sequence[_Ready], support: LabelSupport, plan: Plan) -> None:
        """Segment the pictures that lack this label's result, and show it."""
        todo = []
        for picture, features in ready:
            key = plan.wanted(picture).get(label)
            shown = self.shown.get((picture.id, label))
            if key is not None and (shown is None or shown.key != key):
                todo.append((picture, features, key))
        if not todo:
            return
        try:
            coarse = self.encoder.model.coarse([features for _, features, _ in todo], support)
        except Exception as error:
            if len(todo) == 1:
                self.fail(todo[0][0], error)
                return
            for picture, features, _ in todo:  # too many at once, or one that spoils it for the others
                self._find_label(label, [(picture, features)], support, plan)
            return
        for (picture, _, key), values in zip(todo, coarse, strict=True):
            self.shown[picture.id, label] = self.cache.put(key, values)

    def fail(self, picture: PictureFile, error: BaseException) -> None:
        """Note why a picture cannot be segmented."""
        if not isinstance(error, FewsegError):
            log.warning("%s: unexpected error", picture.path, exc_info=error)
        self.failed[picture.id] = (picture.identity, _said(error, picture))

    def forget_failures(self) -> None:
        """Let everything be tried again."""
        self.failed, self.unusable = {}, {}

    def follow(self, plan: Plan) -> tuple[dict[str, None], bool]:
        """Show what is known already for a plan: the pictures that have to be done, and whether anything is new."""
        pending: dict[str, None] = {}
        news = False
        for picture in plan.pictures.values():
            for label, key in plan.wanted(picture).items():
                shown = self.shown.get((picture.id, label))
                if shown is not None and shown.key == key:
                    continue
                found = self.cache.found(key)
                if found is None:
                    pending[picture.id] = None
                else:
                    self.shown[picture.id, label] = found
                    news = True
            if self.failed.get(picture.id, ("",))[0] == picture.identity:
                pending.pop(picture.id, None)
            else:
                self.failed.pop(picture.id, None)
        for place in [p for p in self.shown if p[0] not in plan.pictures or p[1] not in plan.fingerprints]:
            del self.shown[place]
        self.encoder.keep_labels(list(plan.fingerprints))
        self.cache.trim({found.key for found in self.shown.values()})
        return pending, news


def _said(error: BaseException | None, picture: PictureFile) -> str:
    """One line for the person, without the folders of a path."""
    if isinstance(error, FewsegError):
        return str(error).replace(str(picture.path), picture.shown_name)
    return f"{picture.shown_name} cannot be used ({one_line(error) if error else 'unknown'}): save it again as PNG"
