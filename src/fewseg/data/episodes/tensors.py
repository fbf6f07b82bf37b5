"""From episodes to the tensors that methods take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from fewseg.core.choices import Queries
from fewseg.core.errors import InvalidDataset
from fewseg.core.types import Episode, EpisodeTensors
from fewseg.data.datasets.base import Dataset
from fewseg.data.episodes.draw import draw_training_episodes
from fewseg.data.episodes.splice import View, splice_views
from fewseg.data.episodes.views import Views
from fewseg.images.transforms import Resize, padded_image, padded_mask, square_image, square_mask

# Purpose of an item's random generator, a part of its seed.
_VIEWS, _SPLICING, _HALVES = 2, 6, 7


def episode_tensors(dataset: Dataset, episode: Episode, size: int, *, resize: Resize = "square") -> EpisodeTensors:
    """Read an episode's images and masks, brought to `size` by `resize`."""
    return _tensors(episode_views(dataset, episode, size, resize=resize))


def episode_views(
    dataset: Dataset,
    episode: Episode,
    size: int,
    *,
    resize: Resize = "square",
    augmentation: Views | None = None,
    rng: np.random.Generator | None = None,
) -> list[View]:
    """Image and mask of the query and of every support; augmented, each on its own, with `rng`."""
    views: list[View] = []
    to_image, to_mask = (square_image, square_mask) if resize == "square" else (padded_image, padded_mask)
    for name in (episode.query, *episode.support):
        image, mask = dataset.image(name), dataset.mask(name, episode.class_id)
        if augmentation is not None and rng is not None:
            pixels, labels = augmentation.view(image, mask, size, rng)
        else:
            pixels, labels = to_image(image, size), to_mask(mask, size)
        views.append(((pixels,), labels))
    return views


def _tensors(views: Sequence[View]) -> EpisodeTensors:
    """Tensors of an episode from views whose only map is the image."""
    images, masks = [image for (image,), _ in views], [mask for _, mask in views]
    support = torch.stack([(mask == 1).float() for mask in masks[1:]])
    return EpisodeTensors(images[0], masks[0].long(), torch.stack(images[1:]), support)


def collate(episodes: Sequence[EpisodeTensors]) -> EpisodeTensors:
    """A batch of episodes with the same number of shots."""
    return EpisodeTensors(*(torch.stack([getattr(e, f.name) for e in episodes]) for f in fields(EpisodeTensors)))


@dataclass(frozen=True)
class TrainingSource:
    """A dataset to train on."""

    dataset: Dataset
    classes: tuple[int, ...]
    """The base classes to draw from; never a class that is tested."""
    weight: float = 1.0
    """How often it is drawn, relative to the other sources."""
    small: tuple[tuple[str, int], ...] = ()
    """(image, class) that are queries only, as the image shows the class on too few pixels."""


class TrainingEpisodes(torch.utils.data.Dataset[EpisodeTensors]):
    """Every epoch's episodes in one sequence: item `epoch * per_epoch + i` depends on its number and the seed alone.

    So any number of workers gives the same batches, workers and what they cached live as long as the training, and a
    run goes on at any item.

    Args:
        sources: what to draw from; each episode picks a source by weight.
        shots: numbers of support images; of several, each batch draws one.
        batch: episodes that form a batch and so share their number of shots.
        queries, negative_episodes, splice, epochs, size, seed: see `TrainConfig`.
        per_epoch: episodes of an epoch.
        augmentation: of images and masks; None for the papers' plain resize.
    """

    def __init__(
        self,
        sources: Sequence[TrainingSource],
        *,
        shots: Sequence[int],
        batch: int = 1,
        queries: Queries = "classes",
        negative_episodes: float = 0.0,
        splice: float = 0.0,
        per_epoch: int,
        epochs: int,
        size: int,
        seed: int,
        augmentation: Views | None = None,
    ) -> None:
        if not sources or not all(source.weight >= 0 for source in sources) or not any(s.weight for s in sources):
            raise InvalidDataset("nothing to train on: give at least one dataset, with a weight above 0")
        self.sources, self.per_epoch, self.epochs = tuple(sources), per_epoch, epochs
        self.shots, self.batch, self.queries = tuple(shots), batch, queries
        self.negative_episodes, self.splice = negative_episodes, splice
        self.size, self.seed, self.augmentation = size, seed, augmentation
        self._epoch_cache: tuple[int, list[tuple[int, Episode]]] | None = None

    def __len__(self) -> int:
        return self.per_epoch * self.epochs

    def epoch(self, epoch: int) -> list[tuple[int, Episode]]:
        """The (source, episode) pairs of an epoch, in order."""
        if self._epoch_cache is None or self._epoch_cache[0] != epoch:
            self._epoch_cache = epoch, self._draw(epoch)
        return self._epoch_cache[1]

    def _draw(self, epoch: int) -> list[tuple[int, Episode]]:
        weights = np.array([source.weight for source in self.sources], float)
        rng = np.random.default_rng([self.seed, epoch, 1])
        chosen = rng.choice(len(weights), self.per_epoch, p=weights / weights.sum())
        drawn = []
        for index, source in enumerate(self.sources):
            episodes = draw_training_episodes(
                source.dataset,
                source.classes,
                max(self.shots),
                int((chosen == index).sum()),
                self.seed + index,
                epoch,
                queries=self.queries,
                small=source.small,
                negative_episodes=self.negative_episodes,
            )
            drawn.append(iter(episodes))
        together = [(int(index), next(drawn[index])) for index in chosen]
        if len(self.shots) == 1:
            return together
        rng = np.random.default_rng([self.seed, epoch, 4])
        shots = rng.choice(self.shots, -(-self.per_epoch // self.batch)).repeat(self.batch)
        return [(i, replace(e, support=e.support[: int(n)])) for (i, e), n in zip(together, shots, strict=False)]

    def episode(self, index: int) -> tuple[int, Episode]:
        """Source and names of item `index`, nothing read."""
        epoch, place = divmod(index, self.per_epoch)
        return self.epoch(epoch)[place]

    def partner(self, index: int) -> Episode | None:
        """Images of another class that those of item `index` are spliced with, as an episode of the item's class.

        None where they stay as they are, or no other class was drawn in that epoch.
        """
        rng = self.draws(index, _SPLICING)
        if rng.random() >= self.splice:
            return None
        epoch, place = divmod(index, self.per_epoch)
        drawn = self.epoch(epoch)
        source, episode = drawn[place]
        for other in rng.permutation(len(drawn)):
            number, partner = drawn[other]
            if number == source and partner.class_id != episode.class_id:
                shots = len(episode.support)
                return replace(partner, support=(partner.support * shots)[:shots], class_id=episode.class_id)
        return None

    def draws(self, index: int, purpose: int = _VIEWS) -> np.random.Generator:
        """The random generator of item `index` for a purpose: its views, if not given."""
        epoch, place = divmod(index, self.per_epoch)
        return np.random.default_rng([self.seed, epoch, purpose, place])

    def spliced_views(self, index: int, views: Callable[[Episode], Sequence[View]]) -> Sequence[View]:
        """The views of item `index`, query and supports, spliced with its partner's if it has one."""
        _, episode = self.episode(index)
        partner, mine = self.partner(index), views(episode)
        return mine if partner is None else splice_views(mine, views(partner), self.draws(index, _HALVES))

    def __getitem__(self, index: int) -> EpisodeTensors:
        source, _ = self.episode(index)
        dataset, rng = self.sources[source].dataset, self.draws(index)

        def views(episode: Episode) -> list[View]:
            return episode_views(dataset, episode, self.size, augmentation=self.augmentation, rng=rng)

        return _tensors(self.spliced_views(index, views))
