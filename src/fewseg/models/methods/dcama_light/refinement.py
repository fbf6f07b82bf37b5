"""Refinement steps of the light decoder (ours): the query's predicted foreground serves as a further prototype.

Objects of a class differ more between images than parts of one object do. A step averages the query's tokens over the
predicted foreground and over the rest, and compares every token with both prototypes: missed parts resemble the
foreground, false positives often do not. (Self-support matching, Fan et al., ECCV 2022, replaces prototypes by such
means; here a small network weighs them against the aggregated masks.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.models.methods.dcama_light.prototypes import SIMILARITY_GAIN, query_prototypes
from fewseg.models.ops.resize import map_size, resize

WIDTH: Final = 48
"""Channels of the step's convolutions."""

LOGIT_LIMIT: Final = 8.0
"""Logits are clamped to +/- this before they enter the network."""


class RefinementStep(nn.Module):
    """Corrects logits; initialised to leave them as they are."""

    def __init__(self, blocks: int, context: int) -> None:
        """`blocks`: of all attention scales; `context`: channels of the query's projected skip maps."""
        super().__init__()
        self.inputs = nn.Conv2d(2 * blocks + 1, WIDTH, 3, padding=1)
        self.context = nn.Conv2d(context, WIDTH, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, WIDTH)
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=2, dilation=2)
        self.correction = nn.Conv2d(WIDTH, 1, 3, padding=1)
        for parameter in self.correction.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, logit: Tensor, odds: Tensor, share: Tensor, tokens: Mapping[int, Sequence[Tensor]], labels: int
    ) -> Tensor:
        """Corrected logits (B * L, 1, H, W), labels innermost.

        Args:
            logit: the logits so far.
            odds: log-odds (B * L, blocks, h, w) of the aggregated masks at the working size.
            share: the output (B * L, WIDTH, h, w) of `context` for the query's maps.
            tokens: (B, h', w', C) of unit length of every block, by scale.
            labels: L.
        """
        work = map_size(odds)
        own = [resize(query_similarity(logit, tokens[scale], labels), work) for scale in sorted(tokens)]
        before = resize(logit, work).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        x = F.relu(self.norm(self.inputs(torch.cat([*own, odds, before], 1)) + share))
        return logit + resize(self.correction(F.relu(self.conv(x))), map_size(logit))


def query_similarity(logit: Tensor, tokens: Sequence[Tensor], labels: int) -> Tensor:
    """Similarity (B * L, blocks, h, w) of each token to the query's predicted foreground minus that to its background.

    Arguments as `query_prototypes` takes them.
    """
    height, width = tokens[0].shape[1:3]
    maps = []
    for block, prototypes in zip(tokens, query_prototypes(logit, tokens, labels), strict=True):
        to_foreground, to_background = (prototypes @ block.flatten(1, 2).mT).chunk(2, 1)
        maps.append((to_foreground - to_background).flatten(0, 1))
    return torch.stack(maps, 1).unflatten(2, (height, width)) * SIMILARITY_GAIN
