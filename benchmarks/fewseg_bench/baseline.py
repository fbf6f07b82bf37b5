"""Baseline implementation of DCAMA: as the paper describes it, with torch's own operations and the same weights.

Written against the names of the weights alone, and apart from `fewseg.models.methods`, so that it tests what it is
compared with. Nothing is kept between queries, and the scores of all query and support tokens are materialised. Within
that nothing is wasted: position codes are computed once, blocks of weights are used as they lie.
"""

from __future__ import annotations

import copy
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.dcama.aggregation import MaskAggregation
from fewseg.models.methods.dcama.method import DCAMA
from fewseg.models.ops.position import position_encoding

NORMALISERS = 4
"""Groups of the decoder's group norm."""


def bilinear(x: Tensor, size: Any) -> Tensor:
    size = tuple(size)
    return x if tuple(x.shape[-2:]) == size else F.interpolate(x, size, mode="bilinear", align_corners=True)


Block: TypeAlias = tuple[Tensor, Tensor, Tensor, tuple[int, int]]
"""Queries (B, Nq, C), keys (B, nN, C), values (B, nN, V) and the map's size, of a block of the backbone."""


def baseline_maps(backbone: FeaturePyramid, images: Tensor) -> list[Tensor]:
    """Feature maps of a frozen backbone by its own layers as published: nothing folded, rearranged or compiled."""
    images = images * backbone.gain + backbone.shift
    if backbone.fixed_size is not None:
        images = F.interpolate(images, (backbone.fixed_size,) * 2, mode="bilinear", align_corners=False)
    with torch.no_grad():
        return backbone.features(images)


def baseline_aggregation(query: Tensor, key: Tensor, values: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
    """softmax(Q Kᵀ) V, mean over the heads: (B, Nq, C), (B, Nk, C), (B, Nk, V) to (B, Nq, V); queries are scaled."""
    q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key))
    weights = (q @ k.transpose(-2, -1)).softmax(-1)
    if dropout:
        weights = F.dropout(weights, dropout)
    return (weights @ values.unsqueeze(1)).mean(1)


class BaselineDCAMA:
    """The network of a method, from copies of its weights; see `baseline_dcama` for that of any DCAMA.

    Raises `InvalidOption` for a support that is cut to a budget, which the baseline does not do.
    """

    def __init__(
        self, method: MaskAggregation, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        self.config: Any = method.config
        self.class_balanced = method.class_balanced
        if self.config.support_pixel_budget or (isinstance(method, DCAMA) and not method.config.use_background):
            raise InvalidOption("the baseline implementation uses all support tokens: leave out support_pixel_budget")
        self.backbone = copy.deepcopy(method.backbone).to(device, dtype)
        self.blocks = self.backbone.blocks
        self.weights = {
            name: value.detach().clone().to(device, dtype)
            for name, value in method.state_dict().items()
            if not name.startswith("backbone.")
        }
        self.learnt = [name for name, _ in method.named_parameters() if name in self.weights]
        self.device, self.dtype, self.training = torch.device(device), dtype, False
        have = {block.scale for block in self.blocks}
        self.scales = sorted(set(self.config.attention_scales) & have, reverse=True)
        self.skip_scales = sorted(set(self.config.skip_scales) & have, reverse=True)
        self.attended = [(i, b.scale) for i, b in enumerate(self.blocks) if b.scale in self.scales]
        self.last = {b.scale: i for i, b in enumerate(self.blocks)}

    def trainable(self) -> list[Tensor]:
        """The weights, with gradients switched on, and dropout too: what a training loop gives its optimiser."""
        self.training = True
        return [self.weights[name].requires_grad_() for name in self.learnt]

    def __call__(self, query: Tensor, images: Tensor, masks: Tensor) -> Tensor:
        """Logits (B, 2, H, W) of queries (B, 3, H, W) with supports (B, n, 3, H, W) and (B, n, H, W)."""
        seen, images = query.to(self.device, self.dtype), images.to(self.device, self.dtype)
        return self.head(self.maps(seen), self.maps(images.flatten(0, 1)), masks.to(self.device), query.to(self.device))

    def maps(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps of (B, 3, H, W)."""
        return baseline_maps(self.backbone, images)

    def head(self, query: list[Tensor], support: list[Tensor], masks: Tensor, images: Tensor | None = None) -> Tensor:
        """Logits from the backbone's maps: the queries' (B, C, h, w), the supports' (B * n, C, h, w).

        Boundary refinement, where the method has it, needs the queries' images (B, 3, H, W).
        """
        aggregated: dict[int, list[Tensor]] = {}
        blocks = self.projected(query, support, masks)
        for (_, scale), mask in zip(self.attended, self.aggregate(blocks), strict=True):
            aggregated.setdefault(scale, []).append(mask)
        stacked = {s: torch.stack(v, 1) for s, v in aggregated.items()}
        return self._decode(stacked, blocks, query, support, masks, images)

    # --------------------------------------------------------------------------------------------- attention

    def projected(self, query: list[Tensor], support: list[Tensor], masks: Tensor) -> list[Block]:
        """Projected tokens of every attended block."""
        b, n = masks.shape[:2]
        foreground = (masks == 1).to(self.dtype).flatten(0, 1).unsqueeze(1)
        found = []
        for index, scale in self.attended:
            q = self._project("query", query[index], scale, scaled=True)
            k = self._project("support", support[index], scale, scaled=False)
            value = bilinear(foreground, support[index].shape[-2:]).reshape(b, -1, 1)
            if self.class_balanced:
                value = torch.cat([value, 1 - value], -1)
            size = (query[index].shape[-2], query[index].shape[-1])
            found.append((q, k.unflatten(0, (b, n)).flatten(1, 2), value, size))
        return found

    def aggregate(self, blocks: list[Block]) -> list[Tensor]:
        """Aggregated mask (B, h, w) of every block."""
        aggregated = []
        for q, k, value, size in blocks:
            dropout = self.config.dropout if self.training else 0.0
            shares = baseline_aggregation(q, k, value, self.config.heads, dropout)
            aggregated.append(self._aggregated(shares, value).unflatten(1, size))
        return aggregated

    def _aggregated(self, shares: Tensor, sides: Tensor) -> Tensor:
        if not self.class_balanced:
            return shares.squeeze(-1)
        ahead, behind = (shares.float() / (sides.float().sum(1, keepdim=True) + 1e-4)).unbind(-1)
        return ((ahead + 1e-8) / (ahead + behind + 2e-8)).to(shares.dtype)

    def _project(self, side: str, feature_map: Tensor, scale: int, *, scaled: bool) -> Tensor:
        tokens = feature_map.flatten(2).transpose(1, 2)
        width = tokens.shape[-1]
        if self.config.position_weight:
            codes = position_encoding(tokens.shape[1], width, tokens.device, tokens.dtype)
            tokens = tokens + self.config.position_weight * codes
        tokens = F.dropout(tokens, self.config.dropout, self.training)
        name, heads = f"attention.{scale}.{side}.{width}", self.config.heads
        x = F.linear(tokens, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        if self.config.attention == "dot":
            return x * (x.shape[-1] // heads) ** -0.5 if scaled else x
        x = F.normalize(x.unflatten(-1, (heads, -1)), dim=-1, eps=1e-6)
        if scaled:
            x = x * self.weights[f"attention.{scale}.temperature"].exp().unsqueeze(-1)
        return x.flatten(-2)

    # ----------------------------------------------------------------------------------------------- decoder

    def _decode(
        self,
        aggregated: dict[int, Tensor],
        blocks: list[Block],
        query: list[Tensor],
        support: list[Tensor],
        masks: Tensor,
        images: Tensor | None,
    ) -> Tensor:
        """Logits (B, 2, H, W) of the paper's decoder, from the aggregated masks of every scale."""
        x = self._block(f"decoder.vote.{self.scales[0]}", aggregated[self.scales[0]])
        for scale in self.scales[1:]:
            finer = self._block(f"decoder.vote.{scale}", aggregated[scale])
            x = self._block(f"decoder.merge.{scale}", bilinear(x, finer.shape[-2:]) + finer)
        for scale in self.skip_scales:
            maps = [query[self.last[scale]]]
            if self.config.skip_support:
                shots = support[self.last[scale]].unflatten(0, masks.shape[:2])
                maps.append(shots.amax(1).expand_as(maps[0]))
            if maps[0].shape[-1] >= x.shape[-1]:
                x = torch.cat([bilinear(x, maps[0].shape[-2:]), *maps], 1)
            else:
                x = torch.cat([x, *(bilinear(m, x.shape[-2:]) for m in maps)], 1)
        if 4 not in self.skip_scales:
            height, width = aggregated[self.scales[-1]].shape[-2:]
            x = bilinear(x, (2 * height, 2 * width))
        if self.class_balanced:
            odds = [torch.logit(aggregated[s].float(), eps=0.01).to(self.dtype) for s in self.scales]
            x = torch.cat([x, *(bilinear(o, x.shape[-2:]) for o in odds)], 1)
        mix = x.shape[-2:]
        x = F.relu(self._conv("decoder.mixer1.2", F.relu(self._conv("decoder.mixer1.0", x))))
        x = bilinear(x, (2 * mix[0], 2 * mix[1]))
        x = F.relu(self._conv("decoder.mixer2.2", F.relu(self._conv("decoder.mixer2.0", x))))
        x = bilinear(x, (4 * mix[0], 4 * mix[1]))
        x = self._conv("decoder.mixer3.2", F.relu(self._conv("decoder.mixer3.0", x)))
        return bilinear(x, masks.shape[-2:])

    def _conv(self, name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        padding = dilation * (weight.shape[-1] // 2)
        return F.conv2d(x, weight, self.weights.get(f"{name}.bias"), padding=padding, dilation=dilation)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, NORMALISERS, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _block(self, name: str, x: Tensor) -> Tensor:
        """[convolution, group norm, ReLU] three times."""
        for number in (0, 3, 6):
            x = self._conv(f"{name}.{number}", x)
            x = F.relu(self._norm(f"{name}.{number + 1}", x))
        return x
