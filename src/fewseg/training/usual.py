"""What the things of the training classes have in common, for the light decoder: all things are somewhat alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fewseg.episodes.tensors import TrainingSource, collate, episode_tensors
from fewseg.methods import FewShotMethod
from fewseg.methods.dcama import DCAMA
from fewseg.methods.dcama_light import LightDecoder
from fewseg.types import Episode

_PICTURES: Final = 512
"""Of every source, about, and `_PER_CLASS` of a class at most: the mean hardly moves with more."""

_PER_CLASS: Final = 8


@torch.no_grad()
def fit_usual(method: FewShotMethod, sources: Sequence[TrainingSource], *, size: int, seed: int) -> bool:
    """Choose the decoder's `usual`: the mean of what the things of the training classes are to the method.

    Every class counts the same within its source, every source by its weight. The decoder then knows how much more
    alike two things are than things are anyway, which tells a class from others whether or not it was trained on.
    Measure it before the weights learn: they rely on it.

    Returns whether it was fitted: not where the method has no light decoder.
    """
    if not isinstance(method, DCAMA) or not isinstance(method.decoder, LightDecoder):
        return False
    method.eval()
    total = torch.stack(
        [source.weight * _of_source(method, source, size, [seed, 8, n]) for n, source in enumerate(sources)]
    )
    method.decoder.usual.copy_(total.sum(0) / sum(source.weight for source in sources))
    return True


def _of_source(method: DCAMA, source: TrainingSource, size: int, seed: list[int]) -> Tensor:
    classes = [class_id for class_id in source.classes if source.dataset.names(class_id)]
    most = min(_PER_CLASS, max(1, _PICTURES // len(classes)))
    rng = np.random.default_rng(seed)
    means = []
    for class_id in classes:
        names = source.dataset.names(class_id)
        chosen = [names[i] for i in rng.permutation(len(names))[:most]]
        things = torch.cat([_thing(method, source, Episode(name, (name,), class_id), size) for name in chosen])
        means.append(things.mean(0))
    return torch.stack(means).mean(0)


def _thing(method: DCAMA, source: TrainingSource, episode: Episode, size: int) -> Tensor:
    """(1, C): of every block the mean of the support's thing, one after the other."""
    tensors = collate([episode_tensors(source.dataset, episode, size)]).to(method.device)
    support = method.encode_support(tensors.images, tensors.masks)
    return torch.cat([mean[:, 0] for _, means in sorted(method.shown([support]).items()) for mean in means], -1)
