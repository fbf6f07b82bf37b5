"""A batch or micro-batch of episodes, as images or as backbone maps."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fewseg.core.distributed import Processes
from fewseg.core.errors import InvalidOption
from fewseg.core.types import EpisodeTensors, QueryFeatures, SupportSet
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.layout import convolution_order
from fewseg.models.ops.resize import map_size
from fewseg.training.config import TrainConfig


@dataclass(frozen=True)
class EpisodeImages:
    """A batch of episodes as its distinct images: the backbone never sees one twice."""

    images: Tensor
    """(U, 3, s, s), ImageNet-normalised."""
    query: tuple[int, ...]
    """Which of the images are the B queries."""
    support: tuple[int, ...]
    """Which are the B * n supports."""
    query_mask: Tensor
    """(B, s, s), int64: 0, 1, 255 for pixels that do not count."""
    masks: Tensor
    """(B, n, s, s), float32: 1 foreground, 0 anything else."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EpisodeImages:
        """A copy on `device`."""
        moved = (t.to(device, non_blocking=non_blocking) for t in (self.images, self.query_mask, self.masks))
        return self._with(*moved)

    def pin_memory(self) -> EpisodeImages:
        """In page-locked memory; what a DataLoader calls."""
        return self._with(*(t.pin_memory() for t in (self.images, self.query_mask, self.masks)))

    def _with(self, images: Tensor, query_mask: Tensor, masks: Tensor) -> EpisodeImages:
        return replace(self, images=images, query_mask=query_mask, masks=masks)


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


Batch = EpisodeImages | EpisodeMaps
"""Either kind."""


def gather(episodes: Sequence[EpisodeTensors], keys: Sequence[Sequence[Hashable]]) -> EpisodeImages:
    """A batch of episodes with the same number of shots.

    Args:
        episodes: what was read.
        keys: of every episode a key for its query and for each of its supports; equal keys, equal images.
    """
    rows: dict[Hashable, int] = {}
    images: list[Tensor] = []

    def row(key: Hashable, image: Tensor) -> int:
        if key not in rows:
            rows[key] = len(images)
            images.append(image)
        return rows[key]

    pairs = list(zip(episodes, keys, strict=True))
    query = tuple(row(names[0], episode.query) for episode, names in pairs)
    support = tuple(row(k, p) for episode, names in pairs for k, p in zip(names[1:], episode.images, strict=True))
    return EpisodeImages(
        images=torch.stack(images),
        query=query,
        support=support,
        query_mask=torch.stack([episode.query_mask for episode in episodes]),
        masks=torch.stack([episode.masks for episode in episodes]),
    )


def encode(method: FewShotMethod, batch: Batch) -> tuple[QueryFeatures, SupportSet]:
    """Query features and support set of a batch."""
    if isinstance(batch, EpisodeImages):
        maps = method.backbone(batch.images.to(method.dtype))
        query, support = ([_take(m, rows) for m in maps] for rows in (batch.query, batch.support))
    else:
        # In the order that the backbone gives maps in: dropout draws in memory order.
        kept = (batch.query, batch.support)
        query, support = ([convolution_order(m.to(method.dtype)) for m in maps] for maps in kept)
    return method.query_from_maps(query, map_size(batch.query_mask)), method.support_from_maps(support, batch.masks)


def _take(maps: Tensor, rows: tuple[int, ...]) -> Tensor:
    """Rows in that order, without a copy where they lie together."""
    first = rows[0]
    if rows == tuple(range(first, first + len(rows))):
        return maps[first : first + len(rows)]
    return maps[torch.tensor(rows, device=maps.device)]


def micro_batch_size(config: TrainConfig, processes: Processes) -> int:
    """Episodes of a micro-batch of a whole batch; raises `InvalidOption` where the batch cannot be divided so."""
    parts = processes.count * config.grad_accum_steps
    if config.batch_size % parts:
        raise InvalidOption(
            f"batch_size {config.batch_size} cannot be divided among {processes.count} processes of "
            f"{config.grad_accum_steps} micro-batches each: give a multiple of {parts}"
        )
    return config.batch_size // parts


def step_items(config: TrainConfig, processes: Processes, step: int) -> list[range]:
    """Numbers of the episodes of a process in a step, its shard of the batch, by micro-batches.

    The last batch of an epoch may be smaller, and with it micro-batches, which are left out where nothing is in them.
    """
    epoch, within = divmod(step, config.steps_per_epoch)
    first = within * config.batch_size
    count, parts = min(config.batch_size, config.epoch_episodes - first), processes.count * config.grad_accum_steps
    first += epoch * config.epoch_episodes
    starts = [first + part * (count // parts) + min(part, count % parts) for part in range(parts + 1)]
    own = range(processes.rank * config.grad_accum_steps, (processes.rank + 1) * config.grad_accum_steps)
    return [range(starts[part], starts[part + 1]) for part in own if starts[part] < starts[part + 1]]


def shard_items(config: TrainConfig, processes: Processes, start: int) -> Iterator[range]:
    """The micro-batches of a process from step `start` on, one after the other."""
    for step in range(start, config.steps):
        yield from step_items(config, processes, step)
