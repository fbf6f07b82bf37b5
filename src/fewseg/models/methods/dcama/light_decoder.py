"""A lighter decoder for DCAMA (ours): little data, small machines.

It sees evidence of three kinds, all of the size of log-odds: of every block's balanced vote the log-odds; how much
closer a query token is to the mean of the support's foreground than to that of its background; and how alike it is to
the former beyond what all things are (what is unlike both sides of the support is of neither). What it decides is a
learnt sum of that evidence, each with a weight, plus a correction; the sum is a usable mask before anything is learnt.
No support map reaches it, so that nothing grows with the number of shots, and no attention finer than it works at is
needed.

What it gives in use, and not while its weights learn, goes through three more steps: where nothing stands out the mask
grows (`lenient`), its outline follows the image's edges (`along_edges`), and how sure it is depends on how alike the
thing that it found is to what the examples show (`likeness`, `tempered`: positive factors, so that the mask stays the
same). The numbers of the first and the last are fitted after training (`fewseg.training.calibration.logit_offset`,
`fewseg.training.calibration.temperature`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.methods.dcama.attention import log_odds
from fewseg.models.methods.dcama.boundary import along_edges, lenient
from fewseg.models.methods.dcama.refinement import SIMILARITY_GAIN, Look, side_means
from fewseg.models.ops.guided_filter import Guide
from fewseg.models.ops.resize import map_size, resize, shrink

WIDTH, EDGE_WIDTH, SKIP_WIDTH = 64, 32, 16
"""Channels of the correction, of its refinement at the finest skip scale, and that a skip map is projected to."""

DILATIONS = (1, 2, 4)
"""Of the first convolution of each residual block: together they see 15 positions to every side."""

KINDS = 3
"""Of evidence."""

FIRST_GAINS = (0.5, 0.5, 0.0)
"""What they weigh in the sum before anything is learnt: how alike is alike enough has to be learnt first."""

ODDS_LIMIT = 0.0025
"""Votes are kept this far from 0 and 1: log-odds of 6 are as sure as it gets."""

POWER_LIMIT = 5.0
"""Factors on the logits are between exp(-5) and exp(5): likenesses beyond those that were fitted to must make neither
zeros nor infinities of them."""

BESIDE = 2
"""Pixels at the finest skip scale that what was found is taken to reach beyond its outline."""


class Residual(nn.Module):
    """Two normalised convolutions around a shortcut."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.norm1 = nn.GroupNorm(4, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(4, width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class LightDecoder(nn.Module):
    """Evidence of all scales and the query's skip maps to logits.

    The finest skip map joins last, at its own size; the correction works at the size of the next one.
    """

    leniency: Tensor
    """(2): the peak below which masks grow, and how much for every unit that the peak is below it; see `lenient`."""
    sureness: Tensor
    """(2, 2), logarithms of the factors on logits far from what was found and on the others: a constant, and what each
    unit of `likeness` adds. Not learnt with the weights, whose loss never sees an image without the class."""
    usual: Tensor
    """What things have in common: of every block, from the finest scale, the mean of unit vectors that stand for
    things, (C) each, one after the other. Measured before the weights learn
    (`fewseg.training.calibration.common_feature`), part of what they learnt from then on."""

    def __init__(self, blocks: Mapping[int, Sequence[int]], skips: Mapping[int, int], looks: int = 1) -> None:
        """`blocks`: attention scale to channels of its blocks' queries; `skips`: skip scale to channels.

        Two skip scales at least.
        """
        super().__init__()
        self.scales = sorted(blocks)
        self.widths = [width for scale in self.scales for width in blocks[scale]]
        self.edge, *self.contexts = sorted(skips)
        count = len(self.widths)
        self.project = nn.ModuleDict({str(s): nn.Conv2d(c, SKIP_WIDTH, 1) for s, c in skips.items()})
        self.evidence = nn.Conv2d(KINDS * count, WIDTH, 3, padding=1)
        self.context = nn.Conv2d(SKIP_WIDTH * len(self.contexts), WIDTH, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(4, WIDTH)
        self.residuals = nn.Sequential(*(Residual(WIDTH, dilation) for dilation in DILATIONS))
        self.narrow = nn.Conv2d(WIDTH, EDGE_WIDTH, 1)
        self.refine = nn.Conv2d(EDGE_WIDTH, EDGE_WIDTH, 3, padding=1)
        self.refine_edges = nn.Conv2d(SKIP_WIDTH, EDGE_WIDTH, 3, padding=1, bias=False)
        self.mix = nn.Conv2d(EDGE_WIDTH, EDGE_WIDTH, 3, padding=1)
        self.correction = nn.Conv2d(EDGE_WIDTH, 1, 3, padding=1)
        gains = [torch.tensor(FIRST_GAINS).repeat_interleave(len(blocks[scale])) for scale in self.scales]
        self.gain = nn.Parameter(torch.cat(gains) / count)
        self.bias = nn.Parameter(torch.zeros(()))
        self.register_buffer("leniency", torch.zeros(2))
        self.register_buffer("sureness", torch.zeros(2, 2))
        self.register_buffer("usual", torch.zeros(sum(self.widths)))
        self.looks = looks
        self.look = Look(count, SKIP_WIDTH * len(self.contexts)) if looks > 1 else None

    def forget_fits(self) -> None:
        """Take back what was fitted after a training: it says nothing of other weights."""
        self.leniency.zero_()
        self.sureness.zero_()

    def query_share(self, skips: Mapping[int, Tensor]) -> list[Tensor]:
        """What depends on the query's maps alone, for any number of labels.

        At the finest skip scale; at the working size; there for further looks too, where there are some.
        """
        size = map_size(skips[self.contexts[0]])
        projected = torch.cat([resize(self.project[str(s)](skips[s]), size) for s in self.contexts], 1)
        edges = self.refine_edges(self.project[str(self.edge)](skips[self.edge]))
        again = [] if self.look is None else [self.look.context(projected)]
        return [edges, self.context(projected), *again]

    def forward(
        self,
        evidence: Mapping[int, Tensor],
        share: Sequence[Tensor],
        tokens: Mapping[int, Sequence[Tensor]],
        things: Mapping[int, Sequence[Tensor]],
        size: tuple[int, int],
        labels: int = 1,
        guide: Guide | None = None,
    ) -> Tensor:
        """Logits (B * L, 2, *size), labels innermost.

        Args:
            evidence: (B * L, KINDS * blocks, h, w) of each attention scale.
            share: what `query_share` gave, repeated for the labels.
            tokens: (B, h, w, C) of unit length of every block of each attention scale.
            things: of the same blocks what `shown_things` gave.
            size: of the logits.
            labels: L.
            guide: the edges of B images; outlines follow none without it.
        """
        edge_share, context, *again = share
        work, fine = map_size(context), map_size(edge_share)
        scales = [resize(evidence[s], work) for s in self.scales]
        seen = torch.cat(scales, 1)
        sure = (seen * self.gain.view(1, -1, 1, 1)).sum(1, keepdim=True) + self.bias
        x = self.residuals(F.relu(self.norm(self.evidence(seen) + context)))
        x = F.relu(self.refine(resize(self.narrow(x), fine)) + edge_share)
        logit = self.correction(F.relu(self.mix(x))) + resize(sure, fine)
        if self.look is not None:
            odds = torch.cat([_odds(scale) for scale in scales], 1)
            for _ in range(self.looks - 1):
                logit = self.look(logit, odds, again[0], tokens, labels)
        if not self.training:  # weights learn without these, two of which are fitted to what they give
            logit = lenient(logit, self.leniency)
            if guide is not None:
                logit = along_edges(logit, guide, labels)
            alike = self.likeness(logit, tokens[self.scales[-1]], things[self.scales[-1]])
            logit = tempered(logit, near_found(logit), alike, self.sureness)
        return resize(torch.cat([-logit, logit], 1) / 2, size)

    def likeness(self, logit: Tensor, tokens: Sequence[Tensor], things: Sequence[Tensor]) -> Tensor:
        """(B * L): how alike what `logit` (B * L, 1, h, w) finds is to the things that examples show.

        Mean over the coarsest blocks, whose `tokens` and `things` are those of `forward`. What stands out in an image
        is often found even where the class is absent.
        """
        labels = things[0].shape[1]
        found = side_means(logit, tokens, labels)
        usual = self.usual.split(self.widths)[-len(things) :]
        values = []
        for means, thing, common in zip(found, things, usual, strict=True):
            direction, level = beyond_usual(thing.float(), common.float())
            values.append((means[:, :labels].float() * direction).sum(-1) - level)
        return torch.stack(values).mean(0).flatten()

    def alike(
        self, tokens: Mapping[int, Sequence[Tensor]], things: Mapping[int, Sequence[Tensor]]
    ) -> dict[int, Tensor]:
        """How alike each token is to the things that examples show: at every scale (B, blocks, h, w, L).

        `tokens` and `things` are those of `forward`.
        """
        usual, found = iter(self.usual.split(self.widths)), {}
        for scale in self.scales:
            maps = []
            for block, thing in zip(tokens[scale], things[scale], strict=True):
                direction, level = beyond_usual(thing, next(usual))
                maps.append((block.flatten(1, 2) @ direction.mT - level.unsqueeze(1)).unflatten(1, block.shape[1:3]))
            found[scale] = torch.stack(maps, 1)
        return found


def beyond_usual(thing: Tensor, usual: Tensor) -> tuple[Tensor, Tensor]:
    """How alike a vector x of unit length is to (..., C) `thing`, beyond what both are to `usual` (C).

    That is `x @ direction - level`: the cosine, less the mean of both products with `usual`, in the size of log-odds.
    Returns direction (..., C) and level (...).
    """
    return (thing - usual / 2) * SIMILARITY_GAIN, (thing @ usual) * (SIMILARITY_GAIN / 2)


def _odds(evidence: Tensor) -> Tensor:
    """The part of one scale's evidence that are log-odds."""
    return evidence[:, : evidence.shape[1] // KINDS]


def near_found(logit: Tensor) -> Tensor:
    """How much each pixel of (B, 1, h, w) is of the foreground or beside it, in [0, 1]."""
    return F.max_pool2d(logit.sigmoid(), 2 * BESIDE + 1, stride=1, padding=BESIDE)


def tempered(logit: Tensor, near: Tensor, alike: Tensor, sureness: Tensor) -> Tensor:
    """Logits (B, 1, h, w) of things so alike (B), as sure as `LightDecoder.sureness` says; none changes its sign.

    `near` is `near_found`: both sides of an outline get the same factor, or resizing would move the outline.
    """
    elsewhere, found = (sureness[:, :1] + sureness[:, 1:] * alike).view(2, -1, 1, 1, 1)
    power = torch.lerp(elsewhere, found, near.to(elsewhere.dtype)).clamp(-POWER_LIMIT, POWER_LIMIT)
    return logit * power.exp().to(logit.dtype)


def side_sums(keys: Tensor, values: Tensor) -> Tensor:
    """Of keys (B, n, M, C) with mask values (B, n, M): what foreground and background add up to, (B, n, 2, C)."""
    return torch.stack([values, 1 - values], 2) @ keys


def thing_sum(keys: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """What the keys (B, n, h * w, C) of a map of that size on the foreground of (B, n, H, W) add up to, (B, n, C).

    Unlike a `side_sums`, which sees masks at single places, this misses nothing that is smaller than a token. What
    is half background counts for a quarter, as in `side_means`.
    """
    inside = shrink(masks.flatten(0, 1).unsqueeze(1), size).flatten(1).unflatten(0, masks.shape[:2])
    return (inside.square().unsqueeze(2) @ keys).squeeze(2)


def shown_things(
    supports: Sequence[SupportSet], places: Mapping[int, Sequence[int]], batch: int = 1
) -> dict[int, list[Tensor]]:
    """The mean of each label's things, of every block by scale: (batch, L, C) of unit length.

    `supports` hold `thing.{place}`, the `thing_sum` of every block; `places` are as in `evidence`.
    """
    means: dict[int, list[Tensor]] = {}
    for scale, blocks in places.items():
        sums = [torch.stack([s.tensors[f"thing.{place}"].sum(1) for s in supports], 1) for place in blocks]
        means[scale] = [F.normalize(one, dim=-1, eps=1e-6).expand(batch, -1, -1) for one in sums]
    return means


def unit_tokens(query: QueryFeatures, places: Mapping[int, Sequence[int]]) -> dict[int, list[Tensor]]:
    """Of `query.{place}` (B, h, w, C) of every block those of unit length, by scale."""
    return {
        scale: [F.normalize(query.tensors[f"query.{place}"], dim=-1, eps=1e-6) for place in blocks]
        for scale, blocks in places.items()
    }


def evidence(
    votes: Sequence[Mapping[int, Tensor]],
    tokens: Mapping[int, Sequence[Tensor]],
    supports: Sequence[SupportSet],
    places: Mapping[int, Sequence[int]],
    alike: Mapping[int, Tensor],
) -> list[dict[int, Tensor]]:
    """What the decoder sees of each label: at every scale (B, KINDS * blocks, h, w), log-odds first.

    Args:
        votes: of each label the balanced votes (B, blocks, h, w) of every scale.
        tokens: the query's `unit_tokens`.
        supports: of each label; they hold `mean.{place}`, the `side_sums` of every block.
        places: of every scale the blocks' places in the backbone.
        alike: what `LightDecoder.alike` gave.
    """
    similar: dict[int, Tensor] = {}
    for scale, blocks in places.items():
        found = []
        for place, block in zip(blocks, tokens[scale], strict=True):
            means = [F.normalize(s.tensors[f"mean.{place}"].sum(1), dim=-1, eps=1e-6) for s in supports]
            ahead = torch.stack([(m[:, 0] - m[:, 1]).expand(block.shape[0], -1) for m in means], -1)
            found.append((block.flatten(1, 2) @ ahead).unflatten(1, block.shape[1:3]))
        similar[scale] = torch.stack(found, 1) * SIMILARITY_GAIN
    seen: list[dict[int, Tensor]] = []
    for label, own in enumerate(votes):
        kinds = {s: (log_odds(own[s], ODDS_LIMIT), similar[s][..., label], alike[s][..., label]) for s in places}
        seen.append({s: torch.cat([kind.to(own[s].dtype) for kind in parts], 1) for s, parts in kinds.items()})
    return seen
