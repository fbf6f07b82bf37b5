"""Further looks for DCAMA's light decoder (ours): the query's own foreground as a further support.

Things of a class differ more from one image to the next than parts of one thing do. What the look before found in the
query is therefore averaged, as is the rest, and every token is compared to both means: parts that were missed are like
what was found, and what was found wrongly often is not. (Self-support matching, Fan et al., ECCV 2022, replaces
prototypes by such means; here a small network weighs them against the votes.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.models.ops.resize import map_size, resize, shrink

WIDTH: Final = 48
"""Channels."""

LOGIT_LIMIT: Final = 8.0
"""Logits are shown to the network no surer than this."""

SIMILARITY_GAIN: Final = 10.0
"""Brings differences of cosines to the size of log-odds."""


class Look(nn.Module):
    """Corrects logits; before anything is learnt it leaves them as they are."""

    def __init__(self, blocks: int, context: int) -> None:
        """`blocks`: of all attention scales; `context`: channels of the query's projected skip maps."""
        super().__init__()
        self.seen = nn.Conv2d(2 * blocks + 1, WIDTH, 3, padding=1)
        self.context = nn.Conv2d(context, WIDTH, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, WIDTH)
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=2, dilation=2)
        self.correction = nn.Conv2d(WIDTH, 1, 3, padding=1)
        for parameter in self.correction.parameters():
            nn.init.zeros_(parameter)

    def forward(
        self, logit: Tensor, odds: Tensor, share: Tensor, tokens: Mapping[int, Sequence[Tensor]], labels: int
    ) -> Tensor:
        """Logits (B * L, 1, H, W) like `logit`, labels innermost.

        Args:
            logit: of the look before.
            odds: (B * L, blocks, h, w) log-odds of the votes at the size to work at.
            share: what `context` makes of the query's maps, (B * L, WIDTH, h, w).
            tokens: (B, h', w', C) of unit length of every block, by scale.
            labels: L.
        """
        work = map_size(odds)
        own = [resize(own_similarity(logit, tokens[scale], labels), work) for scale in sorted(tokens)]
        before = resize(logit, work).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        x = F.relu(self.norm(self.seen(torch.cat([*own, odds, before], 1)) + share))
        return logit + resize(self.correction(F.relu(self.conv(x))), map_size(logit))


def own_similarity(logit: Tensor, tokens: Sequence[Tensor], labels: int) -> Tensor:
    """How much closer each token is to what was found in the query than to the rest of it, (B * L, blocks, h, w).

    `logit` (B * L, 1, H, W), L labels innermost; `tokens` (B, h, w, C) of unit length of every block of one scale.
    """
    height, width = tokens[0].shape[1:3]
    found = []
    for block, means in zip(tokens, side_means(logit, tokens, labels), strict=True):
        to_found, to_rest = (means @ block.flatten(1, 2).mT).chunk(2, 1)
        found.append((to_found - to_rest).flatten(0, 1))
    return torch.stack(found, 1).unflatten(2, (height, width)) * SIMILARITY_GAIN


def side_means(logit: Tensor, tokens: Sequence[Tensor], labels: int) -> list[Tensor]:
    """Of every block's tokens the mean of those found and of the rest, of unit length: (B, 2 * L, C), found first.

    Takes what `own_similarity` takes.
    """
    inside = shrink(logit.sigmoid(), map_size(tokens[0][..., 0])).flatten(1).unflatten(0, (-1, labels))
    sides = torch.cat([inside, 1 - inside], 1)
    # Of the surest: where hardly anything is found, what is most like it still has a direction.
    weights = sides / sides.amax(2, keepdim=True).clamp_min(torch.finfo(sides.dtype).tiny)
    weights = weights.square()  # what is unsure counts for little
    return [F.normalize(weights @ block.flatten(1, 2), dim=-1, eps=1e-6) for block in tokens]
