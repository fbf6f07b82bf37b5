"""Dense cross-query-and-support attention weighted mask aggregation (DCAMA).

Xinyu Shi, Dong Wei, Yu Zhang, Donghuan Lu, Munan Ning, Jiashun Chen, Kai Ma, Yefeng Zheng: "Dense Cross-Query-and-
Support Attention Weighted Mask Aggregation for Few-Shot Segmentation", ECCV 2022.

The mask value of a query pixel is the attention-weighted sum of the mask values of all support pixels, foreground and
background, for every block of the backbone at scales 1/8, 1/16 and 1/32. All shots go into one softmax. A small
convolutional decoder merges the blocks' masks with the backbone's maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption
from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.base import FewShotMethod
from fewseg.models.methods.dcama.attention import ScaleAttention, balanced
from fewseg.models.methods.dcama.boundary import guide_among, guide_tensors
from fewseg.models.methods.dcama.config import DCAMAConfig, check_config
from fewseg.models.methods.dcama.decoder import Decoder
from fewseg.models.methods.dcama.light_decoder import (
    LightDecoder,
    evidence,
    shown_things,
    side_sums,
    thing_sum,
    unit_tokens,
)
from fewseg.models.methods.shared_images import same_images
from fewseg.models.ops.mask_aggregation import aggregate_masks
from fewseg.models.ops.position import position_encoding
from fewseg.models.ops.resize import map_size, resize
from fewseg.models.ops.token_budget import budget_tokens

LABELS_AT_ONCE = 8
"""Labels that are columns of one attention; also labels, times images, that a GPU's decoder takes together."""

DECODED_ON_CPU = 2
"""Labels, times images, that a CPU's decoder takes together: more fall out of its caches."""

Decoding = Callable[[slice], Tensor]
"""Logits (B * L, 2, H, W) of some of the labels, labels innermost."""


class DCAMA(FewShotMethod):
    """The method over any feature pyramid; see the module's docstring for the paper."""

    name: ClassVar[str] = "dcama"
    Config: ClassVar[type] = DCAMAConfig
    bfloat16_on: ClassVar[tuple[str, ...]] = ("cuda", "cpu")
    compiled_parts: ClassVar[tuple[str, ...]] = ("decoder",)
    decoder: Decoder | LightDecoder

    def __init__(self, backbone: FeaturePyramid, config: DCAMAConfig = DCAMAConfig()) -> None:
        super().__init__()
        check_config(config)
        self.config, self.backbone = config, backbone
        scales = self._usable(config.attention_scales, "attention")
        self.skip_scales = self._usable(config.skip_scales, None)
        self.attended = [(i, b.scale) for i, b in enumerate(backbone.blocks) if b.scale in scales]
        self.places = {s: [i for i, scale in self.attended if scale == s] for s in scales}
        self.attention = nn.ModuleDict(
            {str(s): self._scale_attention({b.channels for b in backbone.blocks if b.scale == s}) for s in scales}
        )
        last = {b.scale: i for i, b in enumerate(backbone.blocks)}
        self.skip_blocks = {s: last[s] for s in self.skip_scales}
        counts = {s: len(places) for s, places in self.places.items()}
        channels = {s: backbone.blocks[i].channels for s, i in self.skip_blocks.items()}
        if config.decoder == "light":
            if len(channels) < 2:
                raise InvalidOption(f"the light decoder needs two skip scales, {backbone.name} has {self.skip_scales}")
            widths = {s: [self.token_width(i) for i in places] for s, places in self.places.items()}
            self.decoder = LightDecoder(widths, channels, config.looks)
        else:
            self.decoder = Decoder(counts, channels, config.skip_support, config.balance)

    def _scale_attention(self, widths: set[int]) -> ScaleAttention:
        config = self.config
        return ScaleAttention(widths, config.heads, config.attention == "cosine", config.identity_start)

    def token_width(self, place: int) -> int:
        """Channels of the queries and keys of the block at that place of the backbone."""
        block = self.backbone.blocks[place]
        return self._scale(block.scale).width(block.channels)

    def _usable(self, wanted: tuple[int, ...], needed_for: str | None) -> list[int]:
        usable = [s for s in sorted(set(wanted)) if s in self.backbone.scales]
        if needed_for and not usable:
            have = ", ".join(f"1/{s}" for s in self.backbone.scales)
            raise InvalidOption(f"backbone {self.backbone.name} has only {have}: choose {needed_for}_scales among them")
        return usable

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """Keys of every block, resized masks and skip maps, each (B, n, ...). Section 3.2 of the paper."""
        b, n = masks.shape[:2]
        image_size = map_size(masks)
        masks = self._cast(masks == 1)
        tensors: dict[str, Tensor] = {}
        for index, scale in self.attended:
            whole = tokens = self._tokens(maps[index])
            size = map_size(maps[index])
            values = resize(masks.flatten(0, 1).unsqueeze(1), size).flatten(1)
            if not self.config.use_background:
                # What the mask leaves out carries nothing, its place included: zeroed after the position encoding.
                tokens = tokens * values.unsqueeze(-1)
            if self.config.support_pixel_budget:
                tokens, values = budget_tokens(tokens, values, self.config.support_pixel_budget)
            tensors[f"key.{index}"] = self._scale(scale).project_support(tokens).unflatten(0, (b, n))
            tensors[f"value.{index}"] = values.unflatten(0, (b, n))
            if isinstance(self.decoder, LightDecoder):
                tensors[f"mean.{index}"] = side_sums(tensors[f"key.{index}"], tensors[f"value.{index}"])
                keys = tensors[f"key.{index}"]
                if tokens is not whole:  # things are made of all tokens, as they are
                    keys = self._scale(scale).project_support(whole).unflatten(0, (b, n))
                tensors[f"thing.{index}"] = thing_sum(keys, masks, size)
        if self._has_share:
            for scale, index in self.skip_blocks.items():
                tensors[f"skip.{scale}"] = maps[index].unflatten(0, (b, n))
        support = SupportSet(self.name, image_size, tensors, self.encoder)
        if self._has_share and not torch.is_grad_enabled():
            sizes = {b.scale: map_size(m) for b, m in zip(self.backbone.blocks, maps, strict=True)}
            self._support_share(support, self._mix_size(sizes))  # now, so that the first query need not
        return support

    def encode_query(self, images: Tensor) -> QueryFeatures:
        """Queries of every block, skip maps, and the edges that outlines follow, if they do."""
        return self.with_edges(super().encode_query(images), images)

    def with_edges(self, query: QueryFeatures, images: Tensor) -> QueryFeatures:
        """What `query_from_maps` gave, with the edges of its images (B, 3, H, W) if this method follows any."""
        if not self.config.follow_edges or self.training:  # weights learn without
            return query
        fine, work = (map_size(query.tensors[f"skip.{scale}"]) for scale in self.skip_scales[:2])
        edges = guide_tensors(images.to(self.device, torch.float32), fine, work)
        return QueryFeatures(query.image_size, {**query.tensors, **edges})

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        """Queries of every block and skip maps; outlines follow no edges until `with_edges`."""
        tensors: dict[str, Tensor] = {}
        for index, scale in self.attended:
            query = self._scale(scale).project_query(self._tokens(maps[index]))
            tensors[f"query.{index}"] = query.unflatten(1, maps[index].shape[-2:])
        for scale, index in self.skip_blocks.items():
            tensors[f"skip.{scale}"] = maps[index]
        return QueryFeatures(image_size, tensors)

    def _scale(self, scale: int) -> ScaleAttention:
        return cast("ScaleAttention", self.attention[str(scale)])

    def _tokens(self, feature_map: Tensor) -> Tensor:
        """(B, C, h, w) to (B, h*w, C), row-major, with the encoding of the flattened position."""
        tokens = feature_map.flatten(2).transpose(1, 2)
        if self.config.position_weight:
            encoding = position_encoding(tokens.shape[1], tokens.shape[2], tokens.device, tokens.dtype)
            tokens = torch.add(tokens, encoding, alpha=self.config.position_weight)
        return F.dropout(tokens, self.config.dropout, self.training)

    @property
    def last_layer(self) -> nn.Conv2d | None:
        """Of the light decoder the one that gives the correction of the votes."""
        return self.decoder.correction if isinstance(self.decoder, LightDecoder) else super().last_layer

    def forget_fits(self) -> None:
        """How lenient and how sure the light decoder is."""
        if isinstance(self.decoder, LightDecoder):
            self.decoder.forget_fits()

    def votes(self, query: QueryFeatures, support: SupportSet) -> list[Tensor]:
        """The aggregated mask (B, h, w) of every attended block, in the backbone's order; equation 3."""
        return [votes.squeeze(1) for votes in self._votes(query, [support])]

    def likeness(self, query: QueryFeatures, support: SupportSet, logits: Tensor) -> Tensor:
        """(B): how alike what `logits` (B, 2, H, W) find is to what the support shows; see `LightDecoder.likeness`.

        Raises `InvalidOption` where the decoder is not the light one.
        """
        if not isinstance(self.decoder, LightDecoder):
            raise InvalidOption(f"decoder {self.config.decoder} knows no likeness: only light does")
        coarsest = max(self.places)
        places = {coarsest: self.places[coarsest]}
        tokens, things = unit_tokens(query, places), shown_things([support], places, query.batch)
        return self.decoder.likeness(logits[:, 1:] - logits[:, :1], tokens[coarsest], things[coarsest])

    def _votes(self, query: QueryFeatures, supports: Sequence[SupportSet]) -> list[Tensor]:
        """As `votes`, (B, L, h, w), for L labels on the same support images: keys once, a column of values each."""
        dropout = self.config.dropout if self.training else 0.0
        votes = []
        for index, _ in self.attended:
            q = query.tensors[f"query.{index}"]
            key = supports[0].tensors[f"key.{index}"].flatten(1, 2)
            value = torch.stack([s.tensors[f"value.{index}"].flatten(1, 2) for s in supports], -1)
            if self.config.balance:  # the background's share apart: one minus a rounded number is not small enough
                value = torch.cat([value, 1 - value], -1)
            vote = aggregate_masks(
                q.flatten(1, 2),
                key.expand(q.shape[0], -1, -1),
                value.expand(q.shape[0], -1, -1),
                heads=self.config.heads,
                scale=1.0,  # already in the queries
                dropout=dropout,
                implementation=self.config.implementation,
            )
            if self.config.balance:
                vote = balanced(vote, value)
            votes.append(vote.transpose(1, 2).unflatten(2, q.shape[1:3]))
        return votes

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        return self._segment_labels(query, [support]).squeeze(1)

    def _segment_labels(self, query: QueryFeatures, supports: Sequence[SupportSet]) -> Tensor:
        """Query maps' share of the decoder once for all labels; keys once for labels on the same support images."""
        votes = self._votes_of_labels(query, supports)
        if isinstance(self.decoder, LightDecoder):
            decode = self._light_decoding(self.decoder, query, supports, votes)
        else:
            decode = self._published_decoding(self.decoder, query, supports, votes)
        logits = [
            decode(some).unflatten(0, (query.batch, some.stop - some.start))
            for some in self._together(query, len(supports))
        ]
        return torch.cat(logits, 1) if len(logits) > 1 else logits[0]

    def _together(self, query: QueryFeatures, labels: int) -> list[slice]:
        """Which labels the decoder takes at a time."""
        # One label's graph must not depend on the batch: exports leave it open.
        most = DECODED_ON_CPU if self.device.type == "cpu" else LABELS_AT_ONCE
        at_once = max(1, most // query.batch) if labels > 1 else 1
        return [slice(start, min(start + at_once, labels)) for start in range(0, labels, at_once)]

    def _votes_of_labels(self, query: QueryFeatures, supports: Sequence[SupportSet]) -> list[dict[int, Tensor]]:
        """The votes (B, blocks, h, w) of every attention scale, label by label."""
        votes: list[dict[int, Tensor]] = [{} for _ in supports]
        for group in same_images(supports, "key."):
            for start in range(0, len(group), LABELS_AT_ONCE):
                places = group[start : start + LABELS_AT_ONCE]
                stacked: dict[int, list[Tensor]] = {}
                blocks = self._votes(query, [supports[place] for place in places])
                for (_, scale), vote in zip(self.attended, blocks, strict=True):
                    stacked.setdefault(scale, []).append(vote)
                for column, place in enumerate(places):
                    votes[place] = {s: torch.stack([v[:, column] for v in maps], 1) for s, maps in stacked.items()}
        return votes

    def _published_decoding(
        self, decoder: Decoder, query: QueryFeatures, supports: Sequence[SupportSet], votes: Sequence[dict[int, Tensor]]
    ) -> Decoding:
        """Query maps' share of the decoder once for all labels."""
        skips = {s: query.tensors[f"skip.{s}"] for s in self.skip_scales}
        sizes = {scale: map_size(query.tensors[f"query.{i}"][..., 0]) for i, scale in self.attended}
        mix = self._mix_size({**sizes, **{scale: map_size(skip) for scale, skip in skips.items()}})
        share = None
        if skips and len(supports) > 1:
            share = decoder.query_share(skips, sizes[min(sizes)], mix)

        def decode(some: slice) -> Tensor:
            support_share = None
            if self._has_share:
                support_share = _batched([self._support_share(s, mix) for s in supports[some]], query.batch)
            query_share = None if share is None else share.repeat_interleave(some.stop - some.start, 0)
            stacked = _batched_scales(votes[some], query.batch)
            return decoder(stacked, skips, query.image_size, mix, support_share, query_share)

        return decode

    def _light_decoding(
        self,
        decoder: LightDecoder,
        query: QueryFeatures,
        supports: Sequence[SupportSet],
        votes: Sequence[dict[int, Tensor]],
    ) -> Decoding:
        """Likewise with the light decoder, which has no share of the support's."""
        share = decoder.query_share({s: query.tensors[f"skip.{s}"] for s in self.skip_scales})
        tokens = unit_tokens(query, self.places)
        things = shown_things(supports, self.places, query.batch)
        seen = evidence(votes, tokens, supports, self.places, decoder.alike(tokens, things))
        guide = guide_among(query.tensors)

        def decode(some: slice) -> Tensor:
            labels = some.stop - some.start
            own = share if labels == 1 else [part.repeat_interleave(labels, 0) for part in share]
            theirs = {s: [means[:, some] for means in blocks] for s, blocks in things.items()}
            stacked = _batched_scales(seen[some], query.batch)
            return decoder(stacked, own, tokens, theirs, query.image_size, labels, guide)

        return decode

    @property
    def _has_share(self) -> bool:
        return self.config.decoder == "published" and self.config.skip_support and bool(self.skip_scales)

    def _mix_size(self, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """Size at which the decoder mixes: that of the skip map at 1/4, else twice that of the finest votes."""
        if 4 in self.skip_scales:
            return sizes[4]
        height, width = sizes[min(scale for _, scale in self.attended)]
        return 2 * height, 2 * width

    def _support_share(self, support: SupportSet, mix: tuple[int, int]) -> Tensor:
        """The support's share of the decoder; maps max-pooled over the shots. Kept with the support set."""
        name = f"mixer1.{mix[0]}x{mix[1]}"
        cached = support.shared.get(name)
        if cached is not None and not torch.is_grad_enabled():
            return cached
        pooled = {s: support.tensors[f"skip.{s}"].amax(1) for s in self.skip_scales}
        share = cast("Decoder", self.decoder).support_share(pooled, mix)
        if not torch.is_grad_enabled() and not torch.is_autocast_enabled(self.device.type):
            support.shared[name] = share
        return share


def _batched(labels: Sequence[Tensor], batch: int) -> Tensor:
    """(B or 1, ...) of every label to (B * L, ...), labels innermost; one label's stays as it is."""
    if len(labels) == 1:
        return labels[0]
    return torch.stack([one.expand(batch, *one.shape[1:]) for one in labels], 1).flatten(0, 1)


def _batched_scales(labels: Sequence[dict[int, Tensor]], batch: int) -> dict[int, Tensor]:
    """The same for every scale's maps."""
    return {scale: _batched([maps[scale] for maps in labels], batch) for scale in labels[0]}
