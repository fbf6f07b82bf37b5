"""Mask aggregation by dense cross attention (DCAMA, section 3.2), shared by the methods that are built on it."""

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
from fewseg.models.methods.dcama.config import AggregationConfig, check_config
from fewseg.models.methods.shared_images import same_images
from fewseg.models.ops.mask_aggregation import aggregate_masks
from fewseg.models.ops.position import position_encoding
from fewseg.models.ops.resize import map_size, resize
from fewseg.models.ops.token_budget import budget_tokens

LABELS_AT_ONCE = 8
"""Labels aggregated as columns of one attention; also labels, times images, that a GPU decodes together."""

DECODED_ON_CPU = 2
"""Labels, times images, that a CPU decodes together: more do not fit its caches."""

Decoding = Callable[[slice], Tensor]
"""Logits (B * L, 2, H, W) of a slice of the labels, labels innermost."""


class MaskAggregation(FewShotMethod):
    """Keys and mask values of the support, queries of the query, and the masks that attention aggregates from them.

    A subclass gives the decoder: `class_balanced` and `_decoding`.
    """

    bfloat16_devices: ClassVar[tuple[str, ...]] = ("cuda", "cpu")
    compiled_parts: ClassVar[tuple[str, ...]] = ("decoder",)
    config: AggregationConfig
    class_balanced: bool
    """Whether aggregated masks weigh foreground and background tokens alike."""

    def __init__(self, backbone: FeaturePyramid, config: AggregationConfig) -> None:
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
        self.skip_channels = {s: backbone.blocks[i].channels for s, i in self.skip_blocks.items()}

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

    def _mask_values(self, feature_map: Tensor, masks: Tensor) -> Tensor:
        """Mask values (B * n, N) of a map's tokens, from masks (B, n, H, W) of 0 and 1."""
        return resize(masks.flatten(0, 1).unsqueeze(1), map_size(feature_map)).flatten(1)

    def _keys_and_values(
        self, place: int, tokens: Tensor, values: Tensor, shots: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Keys (B, n, M, C) and mask values (B, n, M) of tokens (B * n, N, C), cut to the budget; `shots`: (B, n)."""
        if self.config.support_pixel_budget:
            tokens, values = budget_tokens(tokens, values, self.config.support_pixel_budget)
        return self._project_support(place, tokens, shots), values.unflatten(0, shots)

    def _project_support(self, place: int, tokens: Tensor, shots: tuple[int, int]) -> Tensor:
        return self._scale(self.backbone.blocks[place].scale).project_support(tokens).unflatten(0, shots)

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        """Queries of every block and skip maps."""
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

    def aggregated_masks(self, query: QueryFeatures, support: SupportSet) -> list[Tensor]:
        """The aggregated mask (B, h, w) of every attended block, in the backbone's order; equation 3."""
        return [masks.squeeze(1) for masks in self._aggregated(query, [support])]

    def _aggregated(self, query: QueryFeatures, supports: Sequence[SupportSet]) -> list[Tensor]:
        """Aggregated masks (B, L, h, w) of L labels on the same support images: keys once, a column of values each."""
        dropout = self.config.dropout if self.training else 0.0
        aggregated = []
        for index, _ in self.attended:
            q = query.tensors[f"query.{index}"]
            key = supports[0].tensors[f"key.{index}"].flatten(1, 2)
            value = torch.stack([s.tensors[f"value.{index}"].flatten(1, 2) for s in supports], -1)
            if self.class_balanced:  # the background's share apart: one minus a rounded number is not small enough
                value = torch.cat([value, 1 - value], -1)
            masks = aggregate_masks(
                q.flatten(1, 2),
                key.expand(q.shape[0], -1, -1),
                value.expand(q.shape[0], -1, -1),
                heads=self.config.heads,
                scale=1.0,  # already in the queries
                dropout=dropout,
                implementation=self.config.implementation,
            )
            if self.class_balanced:
                masks = balanced(masks, value)
            aggregated.append(masks.transpose(1, 2).unflatten(2, q.shape[1:3]))
        return aggregated

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        return self._segment_labels(query, [support]).squeeze(1)

    def _segment_labels(self, query: QueryFeatures, supports: Sequence[SupportSet]) -> Tensor:
        """The query's part of the decoder once for all labels; keys once for labels on the same support images."""
        decode = self._decoding(query, supports, self._aggregated_by_label(query, supports))
        logits = [
            decode(labels).unflatten(0, (query.batch, labels.stop - labels.start))
            for labels in self._label_slices(query, len(supports))
        ]
        return torch.cat(logits, 1) if len(logits) > 1 else logits[0]

    def _decoding(
        self, query: QueryFeatures, supports: Sequence[SupportSet], masks: Sequence[dict[int, Tensor]]
    ) -> Decoding:
        """What decodes a slice of the labels; `masks` are the aggregated ones (B, blocks, h, w) by label and scale."""
        raise NotImplementedError

    def _label_slices(self, query: QueryFeatures, labels: int) -> list[slice]:
        """Which labels are decoded together."""
        # One label's graph must not depend on the batch: exports leave it open.
        most = DECODED_ON_CPU if self.device.type == "cpu" else LABELS_AT_ONCE
        at_once = max(1, most // query.batch) if labels > 1 else 1
        return [slice(start, min(start + at_once, labels)) for start in range(0, labels, at_once)]

    def _aggregated_by_label(self, query: QueryFeatures, supports: Sequence[SupportSet]) -> list[dict[int, Tensor]]:
        """The aggregated masks (B, blocks, h, w) of every attention scale, label by label."""
        by_label: list[dict[int, Tensor]] = [{} for _ in supports]
        for group in same_images(supports, "key."):
            for start in range(0, len(group), LABELS_AT_ONCE):
                labels = group[start : start + LABELS_AT_ONCE]
                stacked: dict[int, list[Tensor]] = {}
                blocks = self._aggregated(query, [supports[label] for label in labels])
                for (_, scale), masks in zip(self.attended, blocks, strict=True):
                    stacked.setdefault(scale, []).append(masks)
                for column, label in enumerate(labels):
                    by_label[label] = {s: torch.stack([m[:, column] for m in maps], 1) for s, maps in stacked.items()}
        return by_label


def batched(labels: Sequence[Tensor], batch: int) -> Tensor:
    """(B or 1, ...) of every label to (B * L, ...), labels innermost; one label's stays as it is."""
    if len(labels) == 1:
        return labels[0]
    return torch.stack([one.expand(batch, *one.shape[1:]) for one in labels], 1).flatten(0, 1)


def batched_scales(labels: Sequence[dict[int, Tensor]], batch: int) -> dict[int, Tensor]:
    """The same for every scale's maps."""
    return {scale: batched([maps[scale] for maps in labels], batch) for scale in labels[0]}
