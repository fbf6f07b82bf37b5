"""Reading and encoding images and examples, with what was encoded last kept; belongs to the model's thread."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from fewseg.core.lru import LRUCache
from fewseg.inference.preprocess import PreparedImage
from fewseg.inference.supports import LabelSupport
from fewseg.server.engine.cache import ResultCache
from fewseg.server.engine.model import EngineModel, ImageFeatures
from fewseg.server.engine.plan import Shot
from fewseg.server.model import memory
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.store import ProjectStore

log = logging.getLogger(__name__)


class Unusable(Exception):
    """An example that cannot be encoded; its cause says why."""

    def __init__(self, shot: Shot) -> None:
        super().__init__(shot.key)
        self.shot = shot


class Encoder:
    """Features of images, and examples of labels."""

    def __init__(self, model: EngineModel, store: ProjectStore, cache: ResultCache, features: int, shots: int) -> None:
        """`features`, `shots`: bytes of either to keep."""
        self.model, self._store, self._cache = model, store, cache
        self._features: LRUCache[str, ImageFeatures] = LRUCache(features)
        self._shots: LRUCache[str, LabelSupport] = LRUCache(shots)
        self._supports: dict[int, tuple[str, LabelSupport]] = {}
        self._reading: dict[str, Future[PreparedImage]] = {}
        self._readers = ThreadPoolExecutor(2, "fewseg-read")

    def close(self) -> None:
        """Stop reading."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def kept(self, image: ImageEntry) -> ImageFeatures | None:
        """The image's features if they are in memory; from any thread."""
        return self._features.get(image.identity)

    def read_ahead(self, images: Sequence[ImageEntry]) -> None:
        """Begin to read these, and read no others."""
        for image in images:
            self._read(image)
        wanted = {image.identity for image in images}
        for identity in [i for i in self._reading if i not in wanted]:
            self._reading.pop(identity).cancel()

    def _read(self, image: ImageEntry) -> Future[PreparedImage] | None:
        """The reading of an image, begun where it has to; None where its features are kept."""
        if self._features.get(image.identity) is not None:
            return None
        if image.identity not in self._reading:
            self._reading[image.identity] = self._readers.submit(self.model.prepare, image.path)
        return self._reading[image.identity]

    def wait(self, image: ImageEntry) -> None:
        """Return when the image has been read; raises `InvalidImage`, or whatever the decoder raised."""
        reading = self._read(image)
        try:
            if reading is not None:
                reading.result()
        except BaseException:
            self._reading.pop(image.identity, None)
            raise

    def features(self, images: Sequence[ImageEntry]) -> list[ImageFeatures]:
        """What each image is in itself; raises as `wait`, and what the model raises."""
        found = {p.identity: kept for p in images if (kept := self._features.get(p.identity)) is not None}
        missing = [p for p in images if p.identity not in found]
        for image in missing:
            self.wait(image)
        prepared = [self._reading.pop(p.identity).result() for p in missing]
        for image, made in zip(missing, self.model.features(prepared) if prepared else (), strict=True):
            found[image.identity] = made
            self._features.put(image.identity, made, made.nbytes)
            self._cache.put_tokens(image.identity + self.model.fingerprint, made.tokens.numpy())
        return [found[p.identity] for p in images]

    def support(self, label: int, fingerprint: str, shots: Sequence[Shot]) -> LabelSupport:
        """A label's examples, of which only new ones are encoded; raises `Unusable`."""
        kept = self._supports.get(label)
        if kept is not None and kept[0] == fingerprint:
            return kept[1]
        parts = []
        for shot in shots:
            encoded = self._shots.get(shot.key)
            if encoded is None:
                try:
                    mask = self._store.read_mask(shot.annotation.file, shot.image.size)
                    encoded = self.model.shot(shot.image.path, mask)
                except Exception as error:
                    raise Unusable(shot) from error
                self._shots.put(shot.key, encoded, memory({"": encoded}))
            parts.append(encoded)
        support = LabelSupport.concatenate(parts)
        self._supports[label] = (fingerprint, support)
        return support

    def keep_labels(self, labels: Sequence[int]) -> None:
        """Forget the examples of all other labels, except those used last."""
        self._supports = {label: kept for label, kept in self._supports.items() if label in labels}
