"""Dense cross-query-and-support attention weighted mask aggregation (DCAMA).

Xinyu Shi, Dong Wei, Yu Zhang, Donghuan Lu, Munan Ning, Jiashun Chen, Kai Ma, Yefeng Zheng: "Dense Cross-Query-and-
Support Attention Weighted Mask Aggregation for Few-Shot Segmentation", ECCV 2022.

The mask value of a query pixel is the attention-weighted sum of the mask values of all support pixels, foreground and
background, for every block of the backbone at scales 1/8, 1/16 and 1/32. All shots go into one softmax. A small
convolutional decoder merges the blocks' masks with the backbone's maps.

The choices marked "ours" (cosine attention, `identity_start`, `position_weight`, `class_balanced`) are options, not a
method of their own: each is a single choice within the paper's equations, off by default, and rows of docs/results.md
compare them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.dcama.aggregation import Decoding, MaskAggregation, batched, batched_scales
from fewseg.models.methods.dcama.config import DCAMAConfig
from fewseg.models.methods.dcama.decoder import Decoder
from fewseg.models.ops.resize import map_size


class DCAMA(MaskAggregation):
    """The method over any feature pyramid; see the module's docstring for the paper."""

    name: ClassVar[str] = "dcama"
    Config: ClassVar[type] = DCAMAConfig
    config: DCAMAConfig

    def __init__(self, backbone: FeaturePyramid, config: DCAMAConfig = DCAMAConfig()) -> None:
        super().__init__(backbone, config)
        self.class_balanced = config.class_balanced
        blocks = {s: len(places) for s, places in self.places.items()}
        self.decoder = Decoder(blocks, self.skip_channels, config.skip_support, config.class_balanced)

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """Keys of every block, resized masks and skip maps, each (B, n, ...). Section 3.2 of the paper."""
        shots, image_size = (masks.shape[0], masks.shape[1]), map_size(masks)
        masks = self._cast(masks == 1)
        tensors: dict[str, Tensor] = {}
        for index, _ in self.attended:
            tokens, values = self._tokens(maps[index]), self._mask_values(maps[index], masks)
            if not self.config.use_background:
                # What the mask leaves out carries nothing, its place included: zeroed after the position encoding.
                tokens = tokens * values.unsqueeze(-1)
            key, value = self._keys_and_values(index, tokens, values, shots)
            tensors |= {f"key.{index}": key, f"value.{index}": value}
        if self._has_share:
            for scale, index in self.skip_blocks.items():
                tensors[f"skip.{scale}"] = maps[index].unflatten(0, shots)
        support = SupportSet(self.name, image_size, tensors, self.support_key)
        if self._has_share and not torch.is_grad_enabled():
            sizes = {b.scale: map_size(m) for b, m in zip(self.backbone.blocks, maps, strict=True)}
            self._support_share(support, self._mix_size(sizes))  # now, so that the first query need not
        return support

    def _decoding(
        self, query: QueryFeatures, supports: Sequence[SupportSet], masks: Sequence[dict[int, Tensor]]
    ) -> Decoding:
        """The query maps' share of the decoder once for all labels."""
        skips = {s: query.tensors[f"skip.{s}"] for s in self.skip_scales}
        sizes = {scale: map_size(query.tensors[f"query.{i}"][..., 0]) for i, scale in self.attended}
        mix = self._mix_size({**sizes, **{scale: map_size(skip) for scale, skip in skips.items()}})
        share = None
        if skips and len(supports) > 1:
            share = self.decoder.query_share(skips, sizes[min(sizes)], mix)

        def decode(labels: slice) -> Tensor:
            support_share = None
            if self._has_share:
                support_share = batched([self._support_share(s, mix) for s in supports[labels]], query.batch)
            query_share = None if share is None else share.repeat_interleave(labels.stop - labels.start, 0)
            stacked = batched_scales(masks[labels], query.batch)
            logits: Tensor = self.decoder(stacked, skips, query.image_size, mix, support_share, query_share)
            return logits

        return decode

    @property
    def _has_share(self) -> bool:
        return self.config.skip_support and bool(self.skip_scales)

    def _mix_size(self, sizes: dict[int, tuple[int, int]]) -> tuple[int, int]:
        """Size at which the decoder mixes: that of the skip map at 1/4, else twice that of the finest masks."""
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
        share = self.decoder.support_share(pooled, mix)
        if not torch.is_grad_enabled() and not torch.is_autocast_enabled(self.device.type):
            support.shared[name] = share
        return share
