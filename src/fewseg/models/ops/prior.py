"""The cosine prior: how much the support positions that a query position resembles are foreground.

A softmax over the cosines with every support position weighs their mask values. Its range is tiny, so it is stretched
to [0, 1] for each image; because that magnifies rounding, everything here is computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewseg.models.ops.cosine import FLOOR

CHUNK_SCORES = 2**22
"""Cosines held at once: 16 MiB. One image at 473 pixels has 14.7 million with each shot."""


def cosine_prior(query: Tensor, support: Tensor, mask: Tensor) -> Tensor:
    """The prior of every query position; some of them at a time.

    Args:
        query: (B, C, N) vectors of length one.
        support: (B, C, M) vectors of length one; a batch of 1 serves every query.
        mask: (B, M) mask values of the support positions; a batch of 1 likewise.

    Returns:
        (B, N) in [0, 1], float32.
    """
    with torch.autocast(query.device.type, enabled=False):
        # The stretching takes the mean mask value off again; without it the sums keep ten times the precision.
        # The second column sums the weights: a cosine is at most 1, so its exponential needs no maximum taken off.
        centred = mask.float() - mask.float().mean(1, keepdim=True)
        values = torch.stack([centred, torch.ones_like(centred)], -1)
        rows = max(1, CHUNK_SCORES // support.shape[2])
        priors = []
        for b, tokens in enumerate(query):
            keys, pair = (x[b if len(x) > 1 else 0].float() for x in (support, values))
            sums = torch.cat([(part.T.float() @ keys).exp_() @ pair for part in tokens.split(rows, dim=1)])
            priors.append(sums[:, 0] / sums[:, 1])
        return _stretch(torch.stack(priors))


def cosine_prior_of_shots(query: Tensor, support: Tensor, mask: Tensor) -> Tensor:
    """The priors with every shot of one support, in plain products, for graphs in which their number is open.

    query (B, C, N), support (n, C, M) and mask (n, M), as in `cosine_prior`, to (B, n, N).
    """
    centred = mask.float() - mask.float().mean(1, keepdim=True)
    values = torch.stack([centred, torch.ones_like(centred)], -1)
    sums = (query.float().mT.unsqueeze(1) @ support.float()).exp() @ values
    prior = sums[..., 0] / sums[..., 1]
    return _stretch(prior.flatten(0, 1)).unflatten(0, prior.shape[:2])


def _stretch(values: Tensor) -> Tensor:
    """(B, N) to [0, 1] by each image's own least and largest value; one that is flat comes to 0."""
    least, largest = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return (values - least) / (largest - least + FLOOR)
