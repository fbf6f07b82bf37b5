"""Foreground and background prototypes, and the similarity maps that the light decoder sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.methods.dcama.attention import log_odds
from fewseg.models.ops.resize import map_size, shrink

SIMILARITY_GAIN: Final = 10.0
"""Factor that brings differences of cosines to the scale of log-odds."""

INPUTS_PER_BLOCK: Final = 3
"""Input maps of the decoder per block: log-odds of its aggregated mask, and two similarities."""

ODDS_LIMIT: Final = 0.0025
"""Aggregated masks are clamped to this distance from 0 and 1: their log-odds are within +/- 6."""


def foreground_background_sums(keys: Tensor, values: Tensor) -> Tensor:
    """Sums (B, n, 2, C) of keys (B, n, M, C) weighted by mask values (B, n, M): foreground, background."""
    return torch.stack([values, 1 - values], 2) @ keys


def object_sum(keys: Tensor, masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum (B, n, C) of the keys (B, n, h * w, C) of a map of that size over the foreground of masks (B, n, H, W).

    Masks are averaged over whole cells, so objects smaller than a token count too (`foreground_background_sums` samples
    masks at single points). A token that is half background has a weight of one quarter, as in `query_prototypes`.
    """
    inside = shrink(masks.flatten(0, 1).unsqueeze(1), size).flatten(1).unflatten(0, masks.shape[:2])
    return (inside.square().unsqueeze(2) @ keys).squeeze(2)


def foreground_prototypes(
    supports: Sequence[SupportSet], places: Mapping[int, Sequence[int]], batch: int = 1
) -> dict[int, list[Tensor]]:
    """Foreground prototypes (batch, L, C) of L labels, of unit length, for every block by scale.

    `supports` hold `thing.{place}`, the `object_sum` of every block; `places` are as in `decoder_inputs`.
    """
    prototypes: dict[int, list[Tensor]] = {}
    for scale, blocks in places.items():
        sums = [torch.stack([s.tensors[f"thing.{place}"].sum(1) for s in supports], 1) for place in blocks]
        prototypes[scale] = [F.normalize(one, dim=-1, eps=1e-6).expand(batch, -1, -1) for one in sums]
    return prototypes


def unit_tokens(query: QueryFeatures, places: Mapping[int, Sequence[int]]) -> dict[int, list[Tensor]]:
    """The query's tokens (B, h, w, C) scaled to unit length, for every block by scale."""
    return {
        scale: [F.normalize(query.tensors[f"query.{place}"], dim=-1, eps=1e-6) for place in blocks]
        for scale, blocks in places.items()
    }


def query_prototypes(logit: Tensor, tokens: Sequence[Tensor], labels: int) -> list[Tensor]:
    """Prototypes (B, 2 * L, C) of the predicted foreground, then of the background, of unit length, for every block.

    `logit` (B * L, 1, H, W), L labels innermost; `tokens` (B, h, w, C) of unit length of every block of one scale.
    """
    inside = shrink(logit.sigmoid(), map_size(tokens[0][..., 0])).flatten(1).unflatten(0, (-1, labels))
    sides = torch.cat([inside, 1 - inside], 1)
    # Relative to the most certain token: a faint prediction still has a direction.
    weights = sides / sides.amax(2, keepdim=True).clamp_min(torch.finfo(sides.dtype).tiny)
    weights = weights.square()  # uncertain tokens count for little
    return [F.normalize(weights @ block.flatten(1, 2), dim=-1, eps=1e-6) for block in tokens]


def centred(prototype: Tensor, base_prototype: Tensor) -> tuple[Tensor, Tensor]:
    """Similarity of a unit vector x to prototypes (..., C), centred by the base prototype (C), as a linear function.

    It is `x @ direction - level`: the cosine, less the mean of both vectors' products with the base prototype, times
    `SIMILARITY_GAIN`. Returns direction (..., C) and level (...).
    """
    return (prototype - base_prototype / 2) * SIMILARITY_GAIN, (prototype @ base_prototype) * (SIMILARITY_GAIN / 2)


def centred_similarity(
    tokens: Mapping[int, Sequence[Tensor]],
    prototypes: Mapping[int, Sequence[Tensor]],
    base_prototypes: Mapping[int, Sequence[Tensor]],
) -> dict[int, Tensor]:
    """Centred similarity (B, blocks, h, w, L) of every token to the foreground prototypes, by scale.

    Args:
        tokens: the query's `unit_tokens`.
        prototypes: the labels' `foreground_prototypes`.
        base_prototypes: (C) of every block, likewise by scale.
    """
    similarity = {}
    for scale, blocks in tokens.items():
        maps = []
        for block, prototype, base in zip(blocks, prototypes[scale], base_prototypes[scale], strict=True):
            direction, level = centred(prototype, base)
            maps.append((block.flatten(1, 2) @ direction.mT - level.unsqueeze(1)).unflatten(1, block.shape[1:3]))
        similarity[scale] = torch.stack(maps, 1)
    return similarity


def decoder_inputs(
    masks: Sequence[Mapping[int, Tensor]],
    tokens: Mapping[int, Sequence[Tensor]],
    supports: Sequence[SupportSet],
    places: Mapping[int, Sequence[int]],
    similarity: Mapping[int, Tensor],
) -> list[dict[int, Tensor]]:
    """The decoder's inputs (B, INPUTS_PER_BLOCK * blocks, h, w) of every label by scale, log-odds first.

    Args:
        masks: class-balanced aggregated masks (B, blocks, h, w) of every label by scale.
        tokens: the query's `unit_tokens`.
        supports: of every label; they hold `mean.{place}`, the `foreground_background_sums` of every block.
        places: of every scale the blocks' places in the backbone.
        similarity: the `centred_similarity` of all labels.
    """
    difference: dict[int, Tensor] = {}
    for scale, blocks in places.items():
        maps = []
        for place, block in zip(blocks, tokens[scale], strict=True):
            means = [F.normalize(s.tensors[f"mean.{place}"].sum(1), dim=-1, eps=1e-6) for s in supports]
            ahead = torch.stack([(m[:, 0] - m[:, 1]).expand(block.shape[0], -1) for m in means], -1)
            maps.append((block.flatten(1, 2) @ ahead).unflatten(1, block.shape[1:3]))
        difference[scale] = torch.stack(maps, 1) * SIMILARITY_GAIN
    inputs: list[dict[int, Tensor]] = []
    for label, own in enumerate(masks):
        parts = {
            s: (log_odds(own[s], ODDS_LIMIT), difference[s][..., label], similarity[s][..., label]) for s in places
        }
        inputs.append({s: torch.cat([part.to(own[s].dtype) for part in maps], 1) for s, maps in parts.items()})
    return inputs
