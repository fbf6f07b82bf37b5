"""What the things of the training classes have in common, for the light decoder: all things are somewhat alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fewseg.core.progress import ProgressCallback
from fewseg.core.types import Episode
from fewseg.data.episodes.tensors import TrainingSource, collate, episode_tensors
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.light_decoder import LightDecoder, shown_things
from fewseg.models.methods.dcama.method import DCAMA

_PICTURES: Final = 512
"""Of every source, about, and `_PER_CLASS` of a class at most: the mean hardly moves with more."""

_PER_CLASS: Final = 8


@torch.no_grad()
def fit_usual(
    method: FewShotMethod,
    sources: Sequence[TrainingSource],
    *,
    size: int,
    seed: int,
    progress: ProgressCallback | None = None,
) -> bool:
    """Choose the decoder's `usual`: the mean of what the things of the training classes are to the method.

    Every class counts the same within its source, every source by its weight. The decoder then knows how much more
    alike two things are than things are anyway, which tells a class from others whether or not it was trained on.
    Measure it before the weights learn: they rely on it. The method is left in eval mode.

    Args:
        method: whose decoder's `usual` is set.
        sources: what it will be trained on.
        size: side of its inputs.
        seed: of which images are looked at.
        progress: called with how many of them have been, and how many will be.

    Returns:
        Whether it was fitted: not where the method has no light decoder.
    """
    if not isinstance(method, DCAMA) or not isinstance(method.decoder, LightDecoder):
        return False
    method.eval()
    classes = [
        (source, weight, episodes)
        for number, source in enumerate(sources)
        if source.weight
        for weight, episodes in _drawn(source, np.random.default_rng([seed, 8, number]))
    ]
    count, done = sum(len(episodes) for *_, episodes in classes), 0
    total = torch.zeros_like(method.decoder.usual)
    for source, weight, episodes in classes:
        for episode in episodes:
            total += _thing(method, source, episode, size)[0] * (weight / len(episodes))
            done += 1
            if progress is not None:
                progress(done, count, "")
    method.decoder.usual.copy_(total / sum(weight for _, weight, _ in classes))
    return True


def _drawn(source: TrainingSource, rng: np.random.Generator) -> list[tuple[float, list[Episode]]]:
    """Images of every class that has some, as supports of their own, and what the class weighs."""
    classes = [class_id for class_id in source.classes if source.dataset.names(class_id)]
    most = min(_PER_CLASS, max(1, _PICTURES // max(1, len(classes))))
    drawn = []
    for class_id in classes:
        names = source.dataset.names(class_id)
        chosen = [names[i] for i in rng.permutation(len(names))[:most]]
        drawn.append((source.weight / len(classes), [Episode(name, (name,), class_id) for name in chosen]))
    return drawn


def _thing(method: DCAMA, source: TrainingSource, episode: Episode, size: int) -> Tensor:
    """(1, C): of every block the mean of the support's thing, one after the other."""
    tensors = collate([episode_tensors(source.dataset, episode, size)]).to(method.device)
    support = method.encode_support(tensors.images, tensors.masks)
    things = shown_things([support], method.places)
    return torch.cat([mean[:, 0] for _, means in sorted(things.items()) for mean in means], -1)
