"""How sure the light decoder is to be of a mask, fitted on validation classes after training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.types import IGNORE, Episode, QueryFeatures
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.light_decoder import LightDecoder, near_found, tempered
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.models.ops.resize import map_size
from fewseg.training.calibration.presence import queries_with_and_without
from fewseg.training.data import ValidationSet

_SIDE: Final = 32
"""Pixels of every image that are fitted to, squared: neighbours say the same."""

_STARTS: Final = ((0.0, 0.0), (0.0, 1.0), (-2.0, 2.0))
"""Logarithm of the factor at the mean likeness, and what a standard deviation adds."""

_EVEN: Final = 0.1
"""Likenesses that differ by less say nothing: a hundredth of a cosine."""

_HOLD: Final = 1e-4
"""Weight of the squares: what the pixels say nothing of stays at 0."""

_LARGEST: Final = 5.0
"""No step of the fit leads to infinite factors."""


@dataclass(frozen=True)
class _Asked:
    """A query, before its logits are tempered."""

    logit: Tensor
    """(1, 1, h, w): how far foreground is ahead."""
    near: Tensor
    """(1, 1, h, w): `near_found` of it."""
    alike: Tensor
    """(1)"""
    truth: Tensor
    """(1, 1, h, w): 0, 1, 255."""


def fit_sureness(method: FewShotMethod, sets: Sequence[ValidationSet], *, size: int, seed: int) -> bool:
    """Choose the decoder's `sureness` so that probabilities are those of validation pixels.

    Of `queries_with_and_without` the mean cross-entropy is the least: where things that are not of the class look less
    alike, the model is less sure of them. One label's masks stay as they are.

    Returns whether it was fitted: not where the method has no light decoder, or the sets no such queries.
    """
    if not isinstance(method, DCAMA) or not isinstance(method.decoder, LightDecoder):
        return False
    queries = queries_with_and_without(sets, seed)
    if not queries:
        return False
    sureness = method.decoder.sureness
    sureness.zero_()
    sureness.copy_(_fitted(list(_asked(method, queries, size))))
    return True


@torch.no_grad()
def _asked(method: DCAMA, queries: Sequence[tuple[ValidationSet, Episode, Episode]], size: int) -> Iterator[_Asked]:
    method.eval()
    places = _spread(size)
    for part, *pair in queries:
        for episode in pair:
            tensors = collate([episode_tensors(part.dataset, episode, size)]).to(method.device)
            seen = method.encode_query(tensors.query).tensors
            fine = map_size(seen[f"skip.{min(method.skip_scales)}"])  # where the decoder tempers
            query = QueryFeatures(fine, seen)
            support = method.encode_support(tensors.images, tensors.masks)
            logits = method.segment(query, support)
            logit = (logits[:, 1:] - logits[:, :1]).float().cpu()
            chosen = _spread(fine[0])
            yield _Asked(
                logit[:, :, chosen][..., chosen],
                near_found(logit)[:, :, chosen][..., chosen],
                method.likeness(query, support, logits).float().cpu(),
                tensors.query_mask.cpu()[:, None, places][..., places],
            )


def _spread(side: int) -> Tensor:
    """Which pixels of a side are fitted to."""
    return torch.linspace(0, side - 1, _SIDE).round().long()


def _fitted(asked: Sequence[_Asked]) -> Tensor:
    """The `sureness` with the least cross-entropy."""
    logit, near, truth = (torch.cat([getattr(one, name) for one in asked]) for name in ("logit", "near", "truth"))
    alike = torch.cat([one.alike for one in asked]).double()
    mean, spread = alike.mean(), alike.std().clamp_min(_EVEN)
    pixels = logit.double(), near.double(), (alike - mean) / spread, truth
    # From several starts: where little of what is found is right, not to be sure of any is a minimum too.
    found = [_least(torch.tensor([[0.0, 0.0], start], dtype=torch.float64), *pixels) for start in _STARTS]
    constant, slope = min(found, key=lambda one: one[0])[1].unbind(1)
    return torch.stack([constant - slope * mean / spread, slope / spread], 1).float()


def _least(start: Tensor, logit: Tensor, near: Tensor, alike: Tensor, truth: Tensor) -> tuple[float, Tensor]:
    """The least cross-entropy that is reached from `start`, (2, 2), and where."""
    sureness = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([sureness], max_iter=100, line_search_fn="strong_wolfe")
    counts, target = truth != IGNORE, (truth == 1).double()

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = tempered(logit, near, alike, sureness.clamp(max=_LARGEST))
        wrong = F.binary_cross_entropy_with_logits(found[counts], target[counts]) + _HOLD * sureness.square().sum()
        wrong.backward()
        return wrong

    optimiser.step(loss)
    return loss().item(), sureness.detach().clamp(max=_LARGEST)
