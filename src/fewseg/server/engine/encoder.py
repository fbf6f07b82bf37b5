"""Reads and encodes images and examples, with caches; belongs to the model's thread."""

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
from fewseg.server.model import supports_bytes
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.store import ProjectStore

log = logging.getLogger(__name__)


class UnusableExample(Exception):
    """An example that cannot be encoded; its `__cause__` is the reason."""

    def __init__(self, shot: Shot) -> None:
        super().__init__(shot.key)
        self.shot = shot


class Encoder:
    """Features of images and encoded examples of labels, both cached."""

    def __init__(self, model: EngineModel, store: ProjectStore, cache: ResultCache, features: int, shots: int) -> None:
        """`features`, `shots`: limits of the two caches, in bytes."""
        self.model, self._store, self._cache = model, store, cache
        self.feature_cache: LRUCache[str, ImageFeatures] = LRUCache(features)
        self._shots: LRUCache[str, LabelSupport] = LRUCache(shots)
        self._supports: dict[int, tuple[str, LabelSupport]] = {}
        self._reading: dict[str, Future[PreparedImage]] = {}
        self._readers = ThreadPoolExecutor(2, "fewseg-read")

    def close(self) -> None:
        """Stop reading."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def cached(self, image: ImageEntry) -> ImageFeatures | None:
        """The image's features if they are in memory; may be called from any thread."""
        return self.feature_cache.get(image.identity)

    def read_ahead(self, images: Sequence[ImageEntry]) -> None:
        """Start to read these images, and cancel the reading of others."""
        for image in images:
            self._read(image)
        wanted = {image.identity for image in images}
        for identity in [i for i in self._reading if i not in wanted]:
            self._reading.pop(identity).cancel()

    def _read(self, image: ImageEntry) -> Future[PreparedImage] | None:
        """The future of an image's reading, started if necessary; None where its features are cached."""
        if self.feature_cache.get(image.identity) is not None:
            return None
        if image.identity not in self._reading:
            self._reading[image.identity] = self._readers.submit(self.model.preprocess, image.path)
        return self._reading[image.identity]

    def wait(self, image: ImageEntry) -> None:
        """Wait until the image has been read; raises `InvalidImage`, or what the decoder raises."""
        reading = self._read(image)
        try:
            if reading is not None:
                reading.result()
        except BaseException:
            self._reading.pop(image.identity, None)
            raise

    def features(self, images: Sequence[ImageEntry]) -> list[ImageFeatures]:
        """The features of each image; raises as `wait`, and what the model raises."""
        features = {p.identity: cached for p in images if (cached := self.feature_cache.get(p.identity)) is not None}
        missing = [p for p in images if p.identity not in features]
        for image in missing:
            self.wait(image)
        prepared = [self._reading.pop(p.identity).result() for p in missing]
        for image, made in zip(missing, self.model.features(prepared) if prepared else (), strict=True):
            features[image.identity] = made
            self.feature_cache.put(image.identity, made, made.nbytes)
            self._cache.put_tokens(image.identity + self.model.fingerprint, made.tokens.numpy())
        return [features[p.identity] for p in images]

    def support(self, label: int, fingerprint: str, shots: Sequence[Shot]) -> LabelSupport:
        """The encoded examples of a label, of which only new ones are computed; raises `UnusableExample`."""
        cached = self._supports.get(label)
        if cached is not None and cached[0] == fingerprint:
            return cached[1]
        support = LabelSupport.concatenate([self.example(shot) for shot in shots])
        self._supports[label] = (fingerprint, support)
        return support

    def example(self, shot: Shot) -> LabelSupport:
        """An encoded example; raises `UnusableExample`."""
        encoded = self._shots.get(shot.key)
        if encoded is None:
            try:
                mask = self._store.read_mask(shot.annotation.file, shot.image.size)
                encoded = self.model.encode_example(shot.image.path, mask)
            except Exception as error:
                raise UnusableExample(shot) from error
            self._shots.put(shot.key, encoded, supports_bytes({"": encoded}))
        return encoded

    def keep_labels(self, labels: Sequence[int]) -> None:
        """Drop the supports of all other labels; their examples stay in the cache."""
        self._supports = {label: kept for label, kept in self._supports.items() if label in labels}
