"""How far out the light decoder draws outlines where little stands out, fitted on validation classes after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from fewseg.core.types import IGNORE, Episode, QueryFeatures
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.boundary import GUIDE, RAISE_LIMIT, along_edges, guide_among, peak
from fewseg.models.methods.dcama.light_decoder import LightDecoder
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.models.ops.resize import map_size, resize
from fewseg.training.data import ValidationSet

_RAISES: Final = torch.linspace(0, RAISE_LIMIT, 17)
"""What is added to an image's logits, to see what that makes of its mask; between them IoU is interpolated."""

_STARTS: Final = 41
"""That are tried, from the lowest peak to the highest."""

_SLOPES: Final = torch.linspace(0, 0.95, 39)
"""Below 1, or low peaks would become equal, and `present` could not tell them apart."""


def fit_leniency(method: FewShotMethod, sets: Sequence[ValidationSet], *, size: int) -> bool:
    """Choose the decoder's `leniency` so that the mean IoU of the validation episodes' masks is the largest.

    Clears `sureness`, which belongs fitted afterwards, to the logits that come of it.

    Returns whether it was fitted: not where the method has no light decoder, or there are no episodes.
    """
    if not isinstance(method, DCAMA) or not isinstance(method.decoder, LightDecoder):
        return False
    episodes = [(part, episode) for part in sets for episode in part.episodes]
    if not episodes:
        return False
    method.eval().forget_fits()
    drawn = [_drawn(method, part, episode, size) for part, episode in episodes]
    peaks, ious = (torch.stack(values) for values in zip(*drawn, strict=True))
    method.decoder.leniency.copy_(_best(peaks, ious))
    return True


@torch.no_grad()
def _drawn(method: DCAMA, part: ValidationSet, episode: Episode, size: int) -> tuple[Tensor, Tensor]:
    """The peak of a query's logits, and the IoU (R) of its mask after each of `_RAISES`."""
    tensors = collate([episode_tensors(part.dataset, episode, size)]).to(method.device)
    seen = method.encode_query(tensors.query).tensors
    guide = guide_among(seen)
    fine = map_size(seen[f"skip.{min(method.skip_scales)}"])
    # As the decoder makes them: at its own size, along no edges.
    query = QueryFeatures(fine, {name: tensor for name, tensor in seen.items() if not name.startswith(GUIDE)})
    logits = method.segment(query, method.encode_support(tensors.images, tensors.masks)).float()
    logit = logits[:, 1:] - logits[:, :1]
    raised = logit + _RAISES.to(logit.device).view(-1, 1, 1, 1)
    if guide is not None:  # every raise is a label of the same image
        raised = along_edges(raised, guide, len(_RAISES))
    found = resize(raised, map_size(tensors.query_mask))[:, 0] >= 0
    truth = tensors.query_mask == 1
    found = found & (tensors.query_mask != IGNORE)
    both, either = (found & truth).sum((1, 2)), (found | truth).sum((1, 2))
    return peak(logit)[0].cpu(), (both / either.clamp_min(1)).cpu()


def _best(peaks: Tensor, ious: Tensor) -> Tensor:
    """`leniency` with the largest mean IoU, of queries with such peaks (E) and IoU (E, R); the mildest of equals."""
    starts = torch.linspace(float(peaks.min()), float(peaks.max()), _STARTS)
    raises = _SLOPES[:, None, None] * (starts[:, None] - peaks).clamp_min(0)  # (slopes, starts, E)
    places = raises.clamp_max(RAISE_LIMIT) / _RAISES[1]
    below = places.floor().long().clamp_max(len(_RAISES) - 2)
    each = torch.arange(len(peaks)).expand_as(below)
    means = torch.lerp(ious[each, below], ious[each, below + 1], places - below).mean(2)
    row, column = divmod(int(means.flatten().argmax()), len(starts))
    return torch.stack([starts[column], _SLOPES[row]]) if row else torch.zeros(2)
