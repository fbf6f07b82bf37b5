"""Feature cache: backbone maps of all training images, computed once, as a frozen backbone's maps never change."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor

from fewseg.core.distributed import SINGLE_PROCESS, Processes
from fewseg.core.progress import ProgressCallback
from fewseg.core.types import Episode
from fewseg.data.episodes.splice import View
from fewseg.data.episodes.tensors import TrainingEpisodes, TrainingSource
from fewseg.data.episodes.views import Views
from fewseg.images.transforms import square_image, square_mask
from fewseg.models.backbones import FeaturePyramid
from fewseg.training.batches import EpisodeMaps
from fewseg.training.feature_store import CachedView, FeatureStore, FolderStore, MemoryStore, describe_backbone

log = logging.getLogger(__name__)

_BATCH_SIZE = 16
"""Images in a batch of the backbone."""

_Key = tuple[int, str, int | None, int]
"""Source, image, class (None for the plain view, which all classes share) and number of the view."""


class FeatureCache:
    """Maps of `count` views of every image of every training class.

    Args:
        backbone: frozen, on the device that is to compute.
        sources: the images.
        size: side of the square input.
        count: views of each image: the plain one, then augmented ones for each class that it shows.
        views: the augmentation; without it there is the plain view alone.
        seed: of the views.
        amp: compute and store maps in bfloat16.
        folder: store them in files there, and use those that are there already; in memory if not given.
        processes: with a folder they compute a shard each, without one each computes everything.
        progress: called with images done and images that this process has to do.
    """

    def __init__(
        self,
        backbone: FeaturePyramid,
        sources: Sequence[TrainingSource],
        *,
        size: int,
        count: int,
        views: Views | None,
        seed: int,
        amp: bool = False,
        folder: str | os.PathLike[str] | None = None,
        processes: Processes = SINGLE_PROCESS,
        progress: ProgressCallback | None = None,
    ) -> None:
        self.sources, self.size, self.seed = tuple(sources), size, seed
        self.views, self.count = views, count if views is not None else 1
        self._store: FeatureStore = MemoryStore()
        if folder is not None:
            about = f"{describe_backbone(backbone)} {size} {'bfloat16' if amp else next(backbone.parameters()).dtype}"
            self._store = FolderStore(folder, about, self._content)
        self._masks: dict[tuple[int, str, int], Tensor] = {}
        self._known = dict.fromkeys(self._keys())
        self._shown = {(number, name): class_id for number, name, class_id, _ in self._known if class_id is not None}
        self._fill(backbone, amp, processes, progress)

    def _keys(self) -> Iterator[_Key]:
        for number, source in enumerate(self.sources):
            for class_id in source.classes:
                for name in source.dataset.names(class_id):
                    yield number, name, None, 0
                    yield from ((number, name, class_id, view) for view in range(1, self.count))

    def _fill(
        self,
        backbone: FeaturePyramid,
        amp: bool,
        processes: Processes,
        progress: ProgressCallback | None,
    ) -> None:
        """Compute missing views: this process's shard of them where the others can read it, else all."""
        keys = list(self._known)
        mine = processes.shard(keys) if self._store.shared else keys
        computed = 0
        for start in range(0, len(mine), _BATCH_SIZE):
            missing = [key for key in mine[start : start + _BATCH_SIZE] if key not in self._store]
            computed += len(missing)
            if missing:
                self._compute(backbone, missing, amp)
            if progress is not None:
                progress(min(start + _BATCH_SIZE, len(mine)), len(mine), "")
        processes.barrier()
        each = sum(block.nbytes for key in mine[:1] for block in self._store.get(key).maps)
        log.info("maps of %d views of images: %.1f GB, %d computed now", len(keys), each * len(keys) / 1e9, computed)

    @torch.no_grad()
    def _compute(self, backbone: FeaturePyramid, keys: Sequence[_Key], amp: bool) -> None:
        parameter = next(backbone.parameters())
        drawn = [self._view(key) for key in keys]
        images = torch.stack([image for image, _ in drawn]).to(parameter.device, parameter.dtype)
        with torch.autocast(parameter.device.type, torch.bfloat16, enabled=amp):
            maps = [m.to("cpu", torch.bfloat16 if amp else parameter.dtype) for m in backbone(images)]
        for row, (key, (_, mask)) in enumerate(zip(keys, drawn, strict=True)):
            self._store.put(key, CachedView(tuple(m[row].clone() for m in maps), mask))

    def _view(self, key: _Key) -> tuple[Tensor, Tensor | None]:
        """The view's image (3, s, s), and the mask of an augmented one."""
        number, name, class_id, _ = key
        dataset = self.sources[number].dataset
        if class_id is None:
            return square_image(dataset.image(name), self.size), None
        assert self.views is not None
        rng = np.random.default_rng(self._draws(key))
        image, mask = self.views.view(dataset.image(name), dataset.mask(name, class_id), self.size, rng)
        return image, mask.byte()

    def _draws(self, key: _Key) -> list[int]:
        """Seed of an augmented view."""
        number, name, class_id, view = key
        return [self.seed, 5, number, class_id or 0, view, *name.encode()]

    def _content(self, key: Hashable) -> str:
        """Hash of all that a view's maps depend on but the backbone: pixels; if augmented, mask and seed too."""
        number, name, class_id, _ = typed = cast("_Key", key)
        dataset = self.sources[number].dataset
        image = dataset.image(name)
        digest = hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes())
        if class_id is not None:
            digest.update(np.ascontiguousarray(dataset.mask(name, class_id)).tobytes())
            digest.update(f"{self.views!r} {self._draws(typed)}".encode())
        return digest.hexdigest()

    def episode(self, source: int, episode: Episode, rng: np.random.Generator) -> list[View]:
        """Maps and mask (s, s; 0, 1, 255) of the query and of every support, each in a view that `rng` draws."""
        return [self._draw(source, name, episode.class_id, rng) for name in (episode.query, *episode.support)]

    def _draw(self, source: int, name: str, class_id: int, rng: np.random.Generator) -> View:
        view = int(rng.integers(self.count))
        if view and (source, name, class_id, view) in self._known:
            stored = self._store.get((source, name, class_id, view))
            assert stored.mask is not None
            return stored.maps, stored.mask
        mask = self._plain_mask(source, name, class_id)
        if view and not (mask == 1).any():
            # An image without the class is shown in a view of a class that it has: were it always the plain view, that
            # would give the class's absence away. Where the class is too small to train on, only the plain view's
            # mask is known.
            stored = self._store.get((source, name, self._shown[source, name], view))
            assert stored.mask is not None
            return stored.maps, stored.mask.masked_fill(stored.mask == 1, 0)
        return self._store.get((source, name, None, 0)).maps, mask

    def _plain_mask(self, source: int, name: str, class_id: int) -> Tensor:
        """Mask of the plain view; cached where it shows the class, as those without are many and seldom used."""
        key = (source, name, class_id)
        if key in self._masks:
            return self._masks[key]
        mask = square_mask(self.sources[source].dataset.mask(name, class_id), self.size).byte()
        if (mask == 1).any():
            self._masks[key] = mask
        return mask


def cached_batches(
    episodes: TrainingEpisodes, cache: FeatureCache, batches: Iterable[Sequence[int]]
) -> Iterator[EpisodeMaps]:
    """Micro-batches of these items, as `data.training_batches` gives them but for the views."""
    for items in batches:
        drawn = []
        for item in items:
            source, _ = episodes.episode(item)
            rng = episodes.draws(item)
            drawn.append(episodes.spliced_views(item, partial(cache.episode, source, rng=rng)))
        yield _stacked(drawn)


def _stacked(episodes: Sequence[Sequence[View]]) -> EpisodeMaps:
    supports = [pair for episode in episodes for pair in episode[1:]]
    masks = torch.stack([(mask == 1).float() for _, mask in supports])
    return EpisodeMaps(
        query=[torch.stack(block) for block in zip(*(episode[0][0] for episode in episodes), strict=True)],
        query_mask=torch.stack([episode[0][1] for episode in episodes]).long(),
        support=[torch.stack(block) for block in zip(*(maps for maps, _ in supports), strict=True)],
        masks=masks.unflatten(0, (len(episodes), -1)),
    )
