"""Predicts the masks of a few images at a time and records failures; belongs to the model's thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import FewsegError, one_line
from fewseg.inference.adaptation.features import ImageMaps
from fewseg.inference.supports import LabelSupport
from fewseg.server.engine.cache import ResultCache, ResultSummary
from fewseg.server.engine.encoder import Encoder, UnusableExample
from fewseg.server.engine.model import ImageFeatures, probabilities
from fewseg.server.engine.plan import Plan
from fewseg.server.project.images import ImageEntry

log = logging.getLogger(__name__)

_Encoded: TypeAlias = tuple[ImageEntry, ImageFeatures]


class Predictor:
    """Results by image and label, and the reasons for missing ones; may be read from any thread."""

    def __init__(self, encoder: Encoder, cache: ResultCache) -> None:
        self.encoder, self.cache = encoder, cache
        self.results: dict[tuple[str, int], ResultSummary] = {}
        """The latest result of each image and label; a newer one may be on its way."""
        self.failed: dict[str, tuple[str, str]] = {}
        """Image id to the file's identity and why it could not be segmented."""
        self.unusable: dict[str, str] = {}
        """Key of an example to why it could not be encoded."""

    def predict(self, images: Sequence[ImageEntry], plan: Plan, interrupted: Callable[[], bool]) -> bool:
        """Predict every label of the plan in the images, except results that exist already.

        Returns False when a new plan is needed: `interrupted` was true between two labels, or an example could not be
        encoded.
        """
        encoded = self._encode(images)
        maps: dict[str, ImageMaps] = {}
        for label in plan.fingerprints:
            if interrupted():
                return False
            support = self.support(label, plan)
            if support is None:
                return False
            self._predict_label(label, encoded, support, plan, maps)
        return True

    def support(self, label: int, plan: Plan) -> LabelSupport | None:
        """The label's encoded examples with what was fitted; None, and that is recorded, where one is unusable."""
        try:
            support = self.encoder.support(label, plan.examples[label], plan.shots[label])
        except UnusableExample as error:
            shot, cause = error.shot, error.__cause__
            log.warning("%s: the example cannot be used: %s", shot.image.path, cause)
            self.unusable[shot.key] = _message(cause, shot.image)
            return None
        return plan.fits[label].applied(support) if label in plan.fits else support

    def by_other_images(self, image: ImageEntry, label: int, plan: Plan) -> NDArray[np.float32] | None:
        """Probabilities (h, w) of a label in an image by its examples in other images; None where there are none.

        Raises as `Encoder.features`.
        """
        result = self.results.get((image.id, label))
        if result is not None and result.key == plan.wanted(image).get(label):
            known = self.cache.coarse(result.key)
            if known is not None:
                return probabilities(known).numpy()
        others = [shot for shot in plan.shots.get(label, ()) if shot.image.id != image.id]
        try:
            support = LabelSupport.concatenate([self.encoder.example(shot) for shot in others]) if others else None
        except UnusableExample:  # which the plan's next prediction reports
            return None
        if support is None:
            return None
        (values,) = self.encoder.model.coarse(self.encoder.features([image]), support)
        return probabilities(values).numpy()

    def _encode(self, images: Sequence[ImageEntry]) -> list[_Encoded]:
        """The readable images with their features; the failure of every other one is recorded."""
        readable = []
        for image in images:
            try:
                self.encoder.wait(image)
                readable.append(image)
            except Exception as error:
                self.fail(image, error)
        try:
            return list(zip(readable, self.encoder.features(readable), strict=True))
        except Exception as error:
            if len(readable) == 1:
                self.fail(readable[0], error)
                return []
        return [pair for image in readable for pair in self._encode([image])]

    def _predict_label(
        self, label: int, encoded: Sequence[_Encoded], support: LabelSupport, plan: Plan, maps: dict[str, ImageMaps]
    ) -> None:
        """Predict the label in the images that lack its result; `maps` holds those of the images, by identity."""
        todo = []
        for image, features in encoded:
            key = plan.wanted(image).get(label)
            result = self.results.get((image.id, label))
            if key is not None and (result is None or result.key != key):
                todo.append((image, features, key))
        if not todo:
            return
        try:
            own = [self._maps(image, maps) for image, _, _ in todo] if support.adaptation else []
            coarse = self.encoder.model.coarse([features for _, features, _ in todo], support, own)
        except Exception as error:
            if len(todo) == 1:
                self.fail(todo[0][0], error)
                return
            for image, features, _ in todo:  # the batch was too large, or one image makes it fail
                self._predict_label(label, [(image, features)], support, plan, maps)
            return
        for (image, _, key), values in zip(todo, coarse, strict=True):
            self.results[image.id, label] = self.cache.put(key, values)

    def _maps(self, image: ImageEntry, known: dict[str, ImageMaps]) -> ImageMaps:
        """The image's maps, which all adapted labels share; raises `InvalidImage`."""
        if image.identity not in known:
            known[image.identity] = self.encoder.model.maps(image.path)
        return known[image.identity]

    def fail(self, image: ImageEntry, error: BaseException) -> None:
        """Record why an image cannot be segmented."""
        if not isinstance(error, FewsegError):
            log.warning("%s: unexpected error", image.path, exc_info=error)
        self.failed[image.id] = (image.identity, _message(error, image))

    def clear_failures(self) -> None:
        """Let every failed image and example be tried again."""
        self.failed, self.unusable = {}, {}

    def adopt(self, plan: Plan) -> tuple[dict[str, None], bool]:
        """Take a new plan's results from the cache: ids of images still to predict, and whether any result is new."""
        pending: dict[str, None] = {}
        changed = False
        for image in plan.images.values():
            for label, key in plan.wanted(image).items():
                current = self.results.get((image.id, label))
                if current is not None and current.key == key:
                    continue
                cached = self.cache.summary(key)
                if cached is None:
                    pending[image.id] = None
                else:
                    self.results[image.id, label] = cached
                    changed = True
            if self.failed.get(image.id, ("",))[0] == image.identity:
                pending.pop(image.id, None)
            else:
                self.failed.pop(image.id, None)
        for place in [p for p in self.results if p[0] not in plan.images or p[1] not in plan.fingerprints]:
            del self.results[place]
        self.encoder.keep_labels(list(plan.fingerprints))
        self.cache.trim({result.key for result in self.results.values()})
        return pending, changed


def _message(error: BaseException | None, image: ImageEntry) -> str:
    """The error as one line for the page, with the image's name in place of its path."""
    if isinstance(error, FewsegError):
        return str(error).replace(str(image.path), image.shown_name)
    return f"{image.shown_name} cannot be used ({one_line(error) if error else 'unknown'}): save it again as PNG"
