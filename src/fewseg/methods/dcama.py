"""Dense cross-query-and-support attention weighted mask aggregation (DCAMA).

Xinyu Shi, Dong Wei, Yu Zhang, Donghuan Lu, Munan Ning, Jiashun Chen, Kai Ma, Yefeng Zheng: "Dense Cross-Query-and-
Support Attention Weighted Mask Aggregation for Few-Shot Segmentation", ECCV 2022.

The mask value of a query pixel is the attention-weighted sum of the mask values of all support pixels, foreground and
background, for every block of the backbone at scales 1/8, 1/16 and 1/32. All shots go into one softmax. A small
convolutional decoder merges the blocks' masks with the backbone's maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.backbones import FeaturePyramid
from fewseg.errors import InvalidOption, unknown
from fewseg.methods.base import FewShotMethod
from fewseg.ops.mask_aggregation import Implementation, aggregate_masks
from fewseg.ops.position import position_encoding
from fewseg.ops.resize import map_size, resize
from fewseg.ops.token_budget import budget_tokens
from fewseg.types import QueryFeatures, SupportSet


@dataclass(frozen=True)
class DCAMAConfig:
    """DCAMA's choices; the defaults are the published ones."""

    image_size: int = 384
    """Side of the square input, pixels."""
    attention_scales: tuple[int, ...] = (8, 16, 32)
    """Scales (1/8, ...) at which masks are aggregated (Table S4); those the backbone lacks are left out."""
    skip_scales: tuple[int, ...] = (4, 8)
    """Scales whose last maps join the decoder (Table S3); those the backbone lacks are left out."""
    skip_support: bool = True
    """Whether the support's maps join the decoder beside the query's (Table S5)."""
    use_background: bool = True
    """Whether background support features take part in the attention; off zeroes them (Table 3)."""
    heads: int = 8
    """Attention heads at every scale."""
    support_pixel_budget: int | None = None
    """Foreground and, separately, background tokens that each shot and scale is normalised to (600 in Table S5)."""
    dropout: float = 0.5
    """Dropout on the tokens and on the attention weights, in training."""
    attention: Literal["dot", "cosine"] = "dot"
    """Scaled dot product (published), or cosine with a learnt temperature (ours, for small backbones)."""
    identity_start: bool = False
    """Start the projections from the identity instead of at random (ours; goes with cosine)."""
    position_weight: float = 1.0
    """Factor on the position encoding; 0 leaves it out, so that places in the picture carry no information (ours)."""
    balance: bool = False
    """Weigh both sides of the support alike, however little of it is foreground, and show the decoder's last stage the
    aggregated masks as log-odds, which no norm has touched (ours)."""
    implementation: Implementation = "auto"
    """How masks are aggregated: `reference` materialises the scores, `streaming` never does."""


COSINE_TEMPERATURE = 10.0
"""Start value of the learnt factor on cosines: dot products of unit vectors need one to make a peaked softmax."""

SCALES = (2, 4, 8, 16, 32, 64)
"""Scales that a pyramid can have."""

KERNELS = {32: (3, 3, 3), 16: (5, 3, 3), 8: (5, 5, 3)}
"""Kernel sizes of the convolutions over the stacked masks; other scales take those of 1/8."""

WIDTHS = (16, 64, 128)
"""Channels of these convolutions; the last is the decoder's width."""


class ScaleAttention(nn.Module):
    """The two projections of one scale, shared by its blocks; blocks of different widths have their own pair."""

    def __init__(self, widths: set[int], config: DCAMAConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.ModuleDict({str(w): self._projection(w, config) for w in sorted(widths)})
        self.support = nn.ModuleDict({str(w): self._projection(w, config) for w in sorted(widths)})
        self.temperature: nn.Parameter | None = None
        if config.attention == "cosine":
            self.temperature = nn.Parameter(torch.full((config.heads,), math.log(COSINE_TEMPERATURE)))

    def _projection(self, width: int, config: DCAMAConfig) -> nn.Linear:
        # Widths that the heads do not divide are projected to the next that they do.
        layer = nn.Linear(width, -(-width // config.heads) * config.heads)
        if config.identity_start:
            nn.init.eye_(layer.weight)
            nn.init.zeros_(layer.bias)
        return layer

    def project_query(self, tokens: Tensor) -> Tensor:
        """(..., N, C) to queries; with cosine attention the temperature is already in them."""
        projected = self.query[str(tokens.shape[-1])](tokens)
        if self.temperature is None:
            return projected * (projected.shape[-1] // self.heads) ** -0.5
        unit = self._unit_heads(projected)
        return (unit * self.temperature.exp().unsqueeze(-1)).flatten(-2)

    def project_support(self, tokens: Tensor) -> Tensor:
        projected = self.support[str(tokens.shape[-1])](tokens)
        return projected if self.temperature is None else self._unit_heads(projected).flatten(-2)

    def _unit_heads(self, projected: Tensor) -> Tensor:
        return F.normalize(projected.unflatten(-1, (self.heads, -1)), dim=-1, eps=1e-6)


def conv_block(channels: tuple[int, ...], kernels: tuple[int, ...]) -> nn.Sequential:
    """[convolution, GroupNorm(4), ReLU] for each pair of channels."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel in zip(channels, channels[1:], kernels, strict=False):
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.GroupNorm(4, outputs), nn.ReLU()]
    return nn.Sequential(*layers)


def conv_relu_conv(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, outputs, 3, padding=1), nn.ReLU()
    )


class Decoder(nn.Module):
    """Merges the aggregated masks, coarse to fine, with the backbone's skip maps; gives logits.

    The first convolution over the skip maps is linear: the support's share of it is computed apart (`support_share`),
    once for any number of queries.
    """

    def __init__(self, blocks: dict[int, int], skips: dict[int, int], skip_support: bool, odds: bool = False) -> None:
        """`blocks`: attention scale to number of masks; `skips`: skip scale to channels; `odds`: masks join mixer1."""
        super().__init__()
        self.odds = odds
        width = WIDTHS[-1]
        self.scales = sorted(blocks, reverse=True)
        self.skip_scales = sorted(skips, reverse=True)
        self.vote = nn.ModuleDict(
            {str(s): conv_block((blocks[s], *WIDTHS), KERNELS.get(s, KERNELS[8])) for s in self.scales}
        )
        self.merge = nn.ModuleDict({str(s): conv_block((width,) * 4, (3,) * 3) for s in self.scales[1:]})
        # Input channels of mixer1 in the released order: the votes, then (query map, support map) of each skip scale.
        self.query_channels, start = list(range(width)), width
        self.support_channels: list[int] = []
        for scale in self.skip_scales:
            channels = skips[scale]
            self.query_channels += range(start, start + channels)
            start += channels
            if skip_support:
                self.support_channels += range(start, start + channels)
                start += channels
        if odds:
            self.query_channels += range(start, start + sum(blocks.values()))
            start += sum(blocks.values())
        self.mixer1 = conv_relu_conv(start, 128, 64)
        self.mixer2 = conv_relu_conv(64, 64, 16)
        self.mixer3 = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1))

    def support_share(self, skips: dict[int, Tensor], size: tuple[int, int]) -> Tensor:
        """The part of mixer1's first convolution that sees only the support's maps, (B, 128, *size)."""
        stacked = self._stack(skips, size)
        return F.conv2d(stacked, self._first.weight[:, self.support_channels], padding=1)

    @property
    def _first(self) -> nn.Conv2d:
        return cast("nn.Conv2d", self.mixer1[0])

    def _stack(self, skips: dict[int, Tensor], size: tuple[int, int], x: Tensor | None = None) -> Tensor:
        """Skip maps, coarse to fine, each resized step by step to the next finer one's size and at last to `size`."""
        for scale in self.skip_scales:
            skip = skips[scale]
            if x is None:
                x = skip
            elif skip.shape[-1] >= x.shape[-1]:
                x = torch.cat([resize(x, map_size(skip)), skip], 1)
            else:  # a skip scale coarser than the finest attention scale
                x = torch.cat([x, resize(skip, map_size(x))], 1)
        assert x is not None
        return resize(x, size)

    def forward(
        self,
        votes: dict[int, Tensor],
        skips: dict[int, Tensor],
        share: Tensor | None,
        size: tuple[int, int],
        mix: tuple[int, int],
    ) -> Tensor:
        """Logits (B, 2, *size) from votes (B, L, h, w) of each scale; `mix` is the size at which mixer1 works."""
        x = self.vote[str(self.scales[0])](votes[self.scales[0]])
        for scale in self.scales[1:]:
            finer = self.vote[str(scale)](votes[scale])
            x = self.merge[str(scale)](resize(x, map_size(finer)) + finer)
        x = self._stack(skips, mix, x)
        if self.odds:
            x = torch.cat([x, *(resize(_log_odds(votes[scale]), mix) for scale in self.scales)], 1)
        x = F.conv2d(x, self._first.weight[:, self.query_channels], self._first.bias, padding=1)
        x = self.mixer1[1:](x if share is None else x + share)
        x = self.mixer2(resize(x, (2 * mix[0], 2 * mix[1])))
        x = self.mixer3(resize(x, (4 * mix[0], 4 * mix[1])))
        return resize(x, size)


def _log_odds(votes: Tensor) -> Tensor:
    return torch.logit(votes.float(), eps=0.01).to(votes.dtype)


class DCAMA(FewShotMethod):
    """The method over any feature pyramid; see the module's docstring for the paper."""

    name: ClassVar[str] = "dcama"
    Config: ClassVar[type] = DCAMAConfig

    def __init__(self, backbone: FeaturePyramid, config: DCAMAConfig = DCAMAConfig()) -> None:
        super().__init__()
        _check(config)
        self.config, self.backbone = config, backbone
        scales = self._usable(config.attention_scales, "attention")
        self.skip_scales = self._usable(config.skip_scales, None)
        self.attended = [(i, b.scale) for i, b in enumerate(backbone.blocks) if b.scale in scales]
        self.attention = nn.ModuleDict(
            {str(s): ScaleAttention({b.channels for b in backbone.blocks if b.scale == s}, config) for s in scales}
        )
        last = {b.scale: i for i, b in enumerate(backbone.blocks)}
        self.skip_blocks = {s: last[s] for s in self.skip_scales}
        counts = {s: sum(b.scale == s for b in backbone.blocks) for s in scales}
        channels = {s: backbone.blocks[i].channels for s, i in self.skip_blocks.items()}
        self.decoder = Decoder(counts, channels, config.skip_support, config.balance)

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
            tokens = self._tokens(maps[index])
            size = map_size(maps[index])
            values = resize(masks.flatten(0, 1).unsqueeze(1), size).flatten(1)
            if not self.config.use_background:
                # What the mask leaves out carries nothing, its place included: zeroed after the position encoding.
                tokens = tokens * values.unsqueeze(-1)
            if self.config.support_pixel_budget:
                tokens, values = budget_tokens(tokens, values, self.config.support_pixel_budget)
            tensors[f"key.{index}"] = self._scale(scale).project_support(tokens).unflatten(0, (b, n))
            tensors[f"value.{index}"] = values.unflatten(0, (b, n))
        if self.config.skip_support:
            for scale, index in self.skip_blocks.items():
                tensors[f"skip.{scale}"] = maps[index].unflatten(0, (b, n))
        support = SupportSet(self.name, image_size, tensors, self.encoder)
        if self._has_share and not torch.is_grad_enabled():
            sizes = {b.scale: map_size(m) for b, m in zip(self.backbone.blocks, maps, strict=True)}
            self._support_share(support, self._mix_size(sizes))  # now, so that the first query need not
        return support

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
            tokens = tokens + self.config.position_weight * encoding
        return F.dropout(tokens, self.config.dropout, self.training)

    def votes(self, query: QueryFeatures, support: SupportSet) -> list[Tensor]:
        """The aggregated mask (B, h, w) of every attended block, in the backbone's order; equation 3."""
        dropout = self.config.dropout if self.training else 0.0
        votes = []
        for index, _ in self.attended:
            q = query.tensors[f"query.{index}"]
            h, w = q.shape[1:3]
            key = support.tensors[f"key.{index}"].flatten(1, 2)
            value = support.tensors[f"value.{index}"].flatten(1, 2)
            if self.config.balance:  # the background's share apart: one minus a rounded number is not small enough
                value = torch.stack([value, 1 - value], -1)
            vote = aggregate_masks(
                q.flatten(1, 2),
                key.expand(q.shape[0], -1, -1),
                value.expand(q.shape[0], *value.shape[1:]),
                heads=self.config.heads,
                scale=1.0,  # already in the queries
                dropout=dropout,
                implementation=self.config.implementation,
            )
            if self.config.balance:
                vote = _balanced(vote, value)
            votes.append(vote.unflatten(1, (h, w)))
        return votes

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        votes: dict[int, list[Tensor]] = {}
        for (_, scale), vote in zip(self.attended, self.votes(query, support), strict=True):
            votes.setdefault(scale, []).append(vote)
        skips = {s: query.tensors[f"skip.{s}"] for s in self.skip_scales}
        sizes = {scale: map_size(stacked[0]) for scale, stacked in votes.items()}
        mix = self._mix_size({**sizes, **{scale: map_size(skip) for scale, skip in skips.items()}})
        share = self._support_share(support, mix) if self._has_share else None
        return self.decoder({s: torch.stack(v, 1) for s, v in votes.items()}, skips, share, query.image_size, mix)

    @property
    def _has_share(self) -> bool:
        return self.config.skip_support and bool(self.skip_scales)

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
        share = self.decoder.support_share(pooled, mix)
        if not torch.is_grad_enabled():
            support.shared[name] = share
        return share


_NEITHER = 1e-8
"""Added to both shares of a balanced vote; small against one token's among thousands."""


def _balanced(shares: Tensor, sides: Tensor) -> Tensor:
    """What a vote would be if foreground and background had equally many support tokens.

    With F and B the attention that a query token gives to all foreground and all background tokens, `shares`
    (B, N, 2), the vote is F / (F + B), the balanced one (F / f) / (F / f + B / b), where f and b are the numbers of
    tokens, the sums of `sides` (b, M, 2). Returns (B, N).
    """
    ahead, behind = (shares.float() / (sides.float().sum(1, keepdim=True) + 1e-4)).unbind(-1)
    # Both are zero where dropout has left a token no attention at all: it then votes for neither side.
    return ((ahead + _NEITHER) / (ahead + behind + 2 * _NEITHER)).to(shares.dtype)


def _check(config: DCAMAConfig) -> None:
    """Raise `InvalidOption` for values that mean nothing."""
    for name, known in (("attention", ("dot", "cosine")), ("implementation", get_args(Implementation))):
        if getattr(config, name) not in known:
            raise unknown(name, str(getattr(config, name)), known)
    for name in ("attention_scales", "skip_scales"):
        wrong = [s for s in getattr(config, name) if s not in SCALES]
        if wrong:
            raise InvalidOption(f"{name} has {wrong}: choose among {', '.join(map(str, SCALES))}")
    if config.support_pixel_budget is not None and config.support_pixel_budget < 1:
        raise InvalidOption(f"support_pixel_budget {config.support_pixel_budget}: give at least 1, or None for all")
    if not isinstance(config.image_size, int):
        raise InvalidOption(f"image_size {config.image_size!r}: give a whole number of pixels")
    if config.heads < 1 or config.image_size < 32 or not 0 <= config.dropout < 1:
        raise InvalidOption(
            f"heads {config.heads}, image_size {config.image_size}, dropout {config.dropout}: "
            "expected at least 1, at least 32, and from 0 to below 1"
        )
