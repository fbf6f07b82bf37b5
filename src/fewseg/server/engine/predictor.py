"""Finds the masks of a few images at a time, and notes what cannot be; belongs to the model's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

from fewseg.core.errors import FewsegError, one_line
from fewseg.inference.supports import LabelSupport
from fewseg.server.engine.cache import Found, ResultCache
from fewseg.server.engine.encoder import Encoder, Unusable
from fewseg.server.engine.model import ImageFeatures
from fewseg.server.engine.plan import Plan
from fewseg.server.project.images import ImageEntry

log = logging.getLogger(__name__)

_Ready: TypeAlias = tuple[ImageEntry, ImageFeatures]


class Finder:
    """Results, by image and label, and what stood in the way of others; read from any thread."""

    def __init__(self, encoder: Encoder, cache: ResultCache) -> None:
        self.encoder, self.cache = encoder, cache
        self.shown: dict[tuple[str, int], Found] = {}
        """The last result of each image and label, which a newer one may be on the way to replace."""
        self.failed: dict[str, tuple[str, str]] = {}
        """Image id to the file's identity and why it could not be segmented."""
        self.unusable: dict[str, str] = {}
        """Key of an example to why it could not be encoded."""

    def find(self, images: Sequence[ImageEntry], plan: Plan, overtaken: Callable[[], bool]) -> bool:
        """Find every label of the plan in the images, as far as it is not known.

        Stops between two labels when `overtaken`, or when an example proves unusable: False then, and a new plan is
        needed.
        """
        ready = self._with_features(images)
        for label, fingerprint in plan.fingerprints.items():
            if overtaken():
                return False
            try:
                support = self.encoder.support(label, fingerprint, plan.shots[label])
            except Unusable as error:
                shot, cause = error.shot, error.__cause__
                log.warning("%s: the example cannot be used: %s", shot.image.path, cause)
                self.unusable[shot.key] = _said(cause, shot.image)
                return False
            self._find_label(label, ready, support, plan)
        return True

    def _with_features(self, images: Sequence[ImageEntry]) -> list[_Ready]:
        """The images that can be used, with their features; why the others cannot is noted."""
        ready = []
        for image in images:
            try:
                self.encoder.wait(image)
                ready.append(image)
            except Exception as error:
                self.fail(image, error)
        try:
            return list(zip(ready, self.encoder.features(ready), strict=True))
        except Exception as error:
            if len(ready) == 1:
                self.fail(ready[0], error)
                return []
        return [pair for image in ready for pair in self._with_features([image])]

    def _find_label(self, label: int, ready: Sequence[_Ready], support: LabelSupport, plan: Plan) -> None:
        """Segment the images that lack this label's result, and show it."""
        todo = []
        for image, features in ready:
            key = plan.wanted(image).get(label)
            shown = self.shown.get((image.id, label))
            if key is not None and (shown is None or shown.key != key):
                todo.append((image, features, key))
        if not todo:
            return
        try:
            coarse = self.encoder.model.coarse([features for _, features, _ in todo], support)
        except Exception as error:
            if len(todo) == 1:
                self.fail(todo[0][0], error)
                return
            for image, features, _ in todo:  # too many at once, or one that spoils it for the others
                self._find_label(label, [(image, features)], support, plan)
            return
        for (image, _, key), values in zip(todo, coarse, strict=True):
            self.shown[image.id, label] = self.cache.put(key, values)

    def fail(self, image: ImageEntry, error: BaseException) -> None:
        """Note why an image cannot be segmented."""
        if not isinstance(error, FewsegError):
            log.warning("%s: unexpected error", image.path, exc_info=error)
        self.failed[image.id] = (image.identity, _said(error, image))

    def forget_failures(self) -> None:
        """Let everything be tried again."""
        self.failed, self.unusable = {}, {}

    def follow(self, plan: Plan) -> tuple[dict[str, None], bool]:
        """Show what is known already for a plan: the images that have to be done, and whether anything is new."""
        pending: dict[str, None] = {}
        news = False
        for image in plan.images.values():
            for label, key in plan.wanted(image).items():
                shown = self.shown.get((image.id, label))
                if shown is not None and shown.key == key:
                    continue
                found = self.cache.found(key)
                if found is None:
                    pending[image.id] = None
                else:
                    self.shown[image.id, label] = found
                    news = True
            if self.failed.get(image.id, ("",))[0] == image.identity:
                pending.pop(image.id, None)
            else:
                self.failed.pop(image.id, None)
        for place in [p for p in self.shown if p[0] not in plan.images or p[1] not in plan.fingerprints]:
            del self.shown[place]
        self.encoder.keep_labels(list(plan.fingerprints))
        self.cache.trim({found.key for found in self.shown.values()})
        return pending, news


def _said(error: BaseException | None, image: ImageEntry) -> str:
    """One line for the person, without the folders of a path."""
    if isinstance(error, FewsegError):
        return str(error).replace(str(image.path), image.shown_name)
    return f"{image.shown_name} cannot be used ({one_line(error) if error else 'unknown'}): save it again as PNG"
