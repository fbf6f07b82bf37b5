"""Backbone maps of all training pictures, computed once: a frozen backbone gives the same for the same picture."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fewseg.backbones import FeaturePyramid
from fewseg.episodes.tensors import TrainingEpisodes, TrainingSource
from fewseg.episodes.transforms import square_image, square_mask
from fewseg.episodes.views import Views
from fewseg.types import Episode

LOG = logging.getLogger(__name__)

_PICTURES = 16
"""Pictures that the backbone sees at a time."""

_Key = tuple[int, str, int | None, int]
"""Source, picture, class (None for the plain view, which all its classes share) and number of the view."""


@dataclass(frozen=True)
class EpisodeMaps:
    """A batch of episodes as backbone maps."""

    query: list[Tensor]
    """Every block's map (B, C, h, w) of the queries."""
    query_mask: Tensor
    """(B, s, s), int64: 0, 1, 255 for pixels that do not count."""
    support: list[Tensor]
    """Every block's map (B * n, C, h, w) of the supports."""
    masks: Tensor
    """(B, n, s, s), float32: 1 foreground, 0 anything else."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EpisodeMaps:
        """A copy on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        query, support = ([move(m) for m in maps] for maps in (self.query, self.support))
        return EpisodeMaps(query, move(self.query_mask), support, move(self.masks))


class MapCache:
    """Maps of `views` views of every picture of every class that is trained on.

    Args:
        backbone: frozen, on the device that is to compute.
        sources: the pictures.
        size: side of the square input.
        count: views of each picture: the plain one, then `views`' for each class that it holds.
        views: how pictures are varied; without it all views are the plain one.
        seed: of the views.
        amp: compute and keep maps in bfloat16.
        progress: called with pictures done and pictures in all.
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
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.sources, self.size, self.seed = tuple(sources), size, seed
        self.views, self.count = views, count if views is not None else 1
        self._maps: dict[_Key, tuple[Tensor, ...]] = {}
        self._masks: dict[tuple[_Key, int], Tensor] = {}
        keys = list(dict.fromkeys(self._keys()))
        for start in range(0, len(keys), _PICTURES):
            some = keys[start : start + _PICTURES]
            self._compute(backbone, some, amp)
            if progress is not None:
                progress(start + len(some), len(keys))
        total = sum(m.nbytes for maps in self._maps.values() for m in maps)
        LOG.info("maps of %d views of pictures kept: %.1f GB", len(keys), total / 1e9)

    def _keys(self) -> Iterator[_Key]:
        for number, source in enumerate(self.sources):
            for class_id in source.classes:
                for name in source.dataset.names(class_id):
                    yield number, name, None, 0
                    yield from ((number, name, class_id, view) for view in range(1, self.count))

    @torch.no_grad()
    def _compute(self, backbone: FeaturePyramid, keys: Sequence[_Key], amp: bool) -> None:
        parameter = next(backbone.parameters())
        pictures = torch.stack([self._picture(key) for key in keys]).to(parameter.device, parameter.dtype)
        with torch.autocast(parameter.device.type, torch.bfloat16, enabled=amp):
            maps = [m.to("cpu", torch.bfloat16 if amp else parameter.dtype) for m in backbone(pictures)]
        for row, key in enumerate(keys):
            self._maps[key] = tuple(m[row].clone() for m in maps)

    def _picture(self, key: _Key) -> Tensor:
        """The view's picture (3, s, s); a varied one's mask is kept too."""
        number, name, class_id, view = key
        dataset = self.sources[number].dataset
        if class_id is None:
            return square_image(dataset.image(name), self.size)
        assert self.views is not None
        rng = np.random.default_rng([self.seed, 5, number, class_id, view, *name.encode()])
        picture, mask = self.views.view(dataset.image(name), dataset.mask(name, class_id), self.size, rng)
        self._masks[key, class_id] = mask.byte()
        return picture

    def episode(
        self, source: int, episode: Episode, rng: np.random.Generator
    ) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        """Maps and mask (s, s; 0, 1, 255) of the query and of every support, each in a view that `rng` draws."""
        return [self._draw(source, name, episode.class_id, rng) for name in (episode.query, *episode.support)]

    def _draw(
        self, source: int, name: str, class_id: int, rng: np.random.Generator
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        view = int(rng.integers(self.count))
        key: _Key = (source, name, class_id, view)
        if view == 0 or key not in self._maps:  # only the plain view of a picture that does not hold the class
            key = (source, name, None, 0)
        if (key, class_id) not in self._masks:
            mask = self.sources[source].dataset.mask(name, class_id)
            self._masks[key, class_id] = square_mask(mask, self.size).byte()
        return self._maps[key], self._masks[key, class_id]


def map_batches(episodes: TrainingEpisodes, cache: MapCache, *, start: int, batch: int) -> Iterator[EpisodeMaps]:
    """The batches from step `start` on, as `data.training_batches` gives them, views aside."""
    for first in range(start * batch, len(episodes) - batch + 1, batch):
        drawn = []
        for item in range(first, first + batch):
            epoch, place = divmod(item, episodes.per_epoch)
            source, episode = episodes.epoch(epoch)[place]
            drawn.append(cache.episode(source, episode, np.random.default_rng([episodes.seed, epoch, 2, place])))
        yield _stacked(drawn)


def _stacked(episodes: Sequence[Sequence[tuple[tuple[Tensor, ...], Tensor]]]) -> EpisodeMaps:
    supports = [pair for episode in episodes for pair in episode[1:]]
    masks = torch.stack([(mask == 1).float() for _, mask in supports])
    return EpisodeMaps(
        query=[torch.stack(block) for block in zip(*(episode[0][0] for episode in episodes), strict=True)],
        query_mask=torch.stack([episode[0][1] for episode in episodes]).long(),
        support=[torch.stack(block) for block in zip(*(maps for maps, _ in supports), strict=True)],
        masks=masks.unflatten(0, (len(episodes), -1)),
    )
