"""DCAMA's decoder: merges the aggregated masks, coarse to fine, with the backbone's maps (ECCV 2022, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.models.methods.dcama.attention import log_odds
from fewseg.models.ops.layout import convolution_order
from fewseg.models.ops.resize import map_size, resize
from fewseg.models.ops.upsampled_convolution import convolve_low, low_resolution_pays

KERNELS = {32: (3, 3, 3), 16: (5, 3, 3), 8: (5, 5, 3)}
"""Kernel sizes of the convolutions over the stacked masks; other scales take those of 1/8."""

WIDTHS = (16, 64, 128)
"""Channels of these convolutions; the last is the decoder's width."""

ODDS_LIMIT = 0.01
"""Aggregated masks are clamped to this distance from 0 and 1 before their log-odds are taken."""


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


class Piece(NamedTuple):
    """Some of the input channels of mixer1, at a size of their own."""

    map: Tensor
    """(B, C, h, w)."""
    channels: slice
    """Which of mixer1's inputs they are."""


class Decoder(nn.Module):
    """Merges the aggregated masks, coarse to fine, with the backbone's skip maps; gives logits.

    The first convolution over the skip maps is linear: the support's share of it (`support_share`) is computed once for
    any number of queries, the query's (`query_share`) once for any number of labels.
    """

    def __init__(self, blocks: dict[int, int], skips: dict[int, int], skip_support: bool, odds: bool = False) -> None:
        """`blocks`: attention scale to number of masks; `skips`: skip scale to channels; `odds`: masks join mixer1 too
        (ours)."""
        super().__init__()
        width = WIDTHS[-1]
        self.scales = sorted(blocks, reverse=True)
        self.skip_scales = sorted(skips, reverse=True)
        self.vote = nn.ModuleDict(
            {str(s): conv_block((blocks[s], *WIDTHS), KERNELS.get(s, KERNELS[8])) for s in self.scales}
        )
        self.merge = nn.ModuleDict({str(s): conv_block((width,) * 4, (3,) * 3) for s in self.scales[1:]})
        # Input channels of mixer1 in the released order: masks, then (query map, support map) of each skip scale.
        inputs = [("masks", width)]
        for scale in self.skip_scales:
            inputs.append((f"query.{scale}", skips[scale]))
            if skip_support:
                inputs.append((f"support.{scale}", skips[scale]))
        if odds:
            inputs += [(f"odds.{scale}", blocks[scale]) for scale in self.scales]
        self.inputs, start = {}, 0
        for name, channels in inputs:
            self.inputs[name] = slice(start, start + channels)
            start += channels
        self.odds = odds
        self.mixer1 = conv_relu_conv(start, 128, 64)
        self.mixer2 = conv_relu_conv(64, 64, 16)
        self.mixer3 = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1))

    def support_share(self, skips: dict[int, Tensor], mix: tuple[int, int]) -> Tensor:
        """The part of mixer1's first convolution that sees only the support's maps, (B, 128, *mix)."""
        return self._convolve(self._skips("support", skips, None, mix), mix)

    def query_share(self, skips: dict[int, Tensor], finest: tuple[int, int], mix: tuple[int, int]) -> Tensor:
        """The part that sees only the query's maps, (B, 128, *mix); `finest` is the size of the finest masks."""
        return self._convolve(self._skips("query", skips, finest, mix), mix)

    def forward(
        self,
        masks: dict[int, Tensor],
        skips: dict[int, Tensor],
        size: tuple[int, int],
        mix: tuple[int, int],
        support_share: Tensor | None = None,
        query_share: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, 2, *size).

        Args:
            masks: aggregated masks (B, blocks, h, w) of each attention scale.
            skips: the query's maps of each skip scale; only their sizes matter where their share is given.
            size: of the logits.
            mix: the size at which mixer1 works.
            support_share: the support's share of mixer1, (B or 1, 128, *mix).
            query_share: the query's, likewise; part of this computation if not given.
        """
        masks = {scale: convolution_order(stacked) for scale, stacked in masks.items()}
        x = self.merged_masks(masks)
        finest = map_size(x)
        route = resize_routes([finest, *(map_size(skips[s]) for s in self.skip_scales)], mix)[0]
        pieces = [Piece(_along(route, x), self.inputs["masks"])]
        if query_share is None:
            pieces += self._skips("query", skips, finest, mix)
        if self.odds:
            pieces += [Piece(log_odds(masks[s], ODDS_LIMIT), self.inputs[f"odds.{s}"]) for s in self.scales]
        x = self._convolve(pieces, mix, self._first.bias)
        for share in (support_share, query_share):
            x = x if share is None else x + share
        x = self.mixer1[1:](x)
        x = self.mixer2(resize(x, (2 * mix[0], 2 * mix[1])))
        x = self.mixer3(resize(x, (4 * mix[0], 4 * mix[1])))
        return resize(x, size)

    @property
    def _first(self) -> nn.Conv2d:
        return cast("nn.Conv2d", self.mixer1[0])

    def merged_masks(self, masks: dict[int, Tensor]) -> Tensor:
        """Aggregated masks of all scales as one map of the finest attention scale."""
        x = self.vote[str(self.scales[0])](masks[self.scales[0]])
        for scale in self.scales[1:]:
            finer = self.vote[str(scale)](masks[scale])
            x = self.merge[str(scale)](resize(x, map_size(finer)) + finer)
        return x

    def _skips(
        self, whose: str, skips: dict[int, Tensor], finest: tuple[int, int] | None, mix: tuple[int, int]
    ) -> list[Piece]:
        """The skip maps of the query or of the support, coarse to fine; behind masks of size `finest`, if any."""
        before = [] if finest is None else [finest]
        routes = resize_routes([*before, *(map_size(skips[s]) for s in self.skip_scales)], mix)[len(before) :]
        return [
            Piece(_along(route, skips[s]), self.inputs[f"{whose}.{s}"])
            for s, route in zip(self.skip_scales, routes, strict=True)
        ]

    def _convolve(self, pieces: Sequence[Piece], mix: tuple[int, int], bias: Tensor | None = None) -> Tensor:
        """mixer1's first convolution over some of its inputs, each upsampled to `mix`: (B, 128, *mix).

        Where it pays, inputs of one size are convolved before the upsampling; the others, resized, all at once.
        """
        weight = self._first.weight
        total: Tensor | None = None
        resized: list[tuple[Tensor, list[Piece]]] = []
        together: dict[tuple[int, int], list[Piece]] = {}
        for piece in pieces:
            together.setdefault(map_size(piece.map), []).append(piece)
        for group in together.values():
            x = _joined([piece.map for piece in group])
            if low_resolution_pays(x, len(weight), mix):
                low = convolve_low(x, _columns(weight, group), mix)
                total = low if total is None else total + low
            else:
                resized.append((resize(x, mix), group))
        if resized:
            columns = _columns(weight, [piece for _, group in resized for piece in group])
            high = F.conv2d(_joined([x for x, _ in resized]), columns, bias, padding=1)
            return high if total is None else high + total
        assert total is not None
        return total if bias is None else total + bias.view(1, -1, 1, 1)


def resize_routes(sizes: Sequence[tuple[int, int]], mix: tuple[int, int]) -> list[list[tuple[int, int]]]:
    """The sizes to which stacked maps of `sizes` are resized, one after another, until all are of size `mix`.

    As released, what is stacked so far is resized whenever a finer map joins it, and at the end; a map that is coarser
    than the stack (a skip scale coarser than the finest attention scale) is resized to the stack's size.
    """
    routes: list[list[tuple[int, int]]] = [[] for _ in sizes]
    stack = sizes[0]
    for i, size in enumerate(sizes):
        if size[1] < stack[1]:
            routes[i].append(stack)
        elif size != stack:
            for route in routes[:i]:
                route.append(size)
            stack = size
    if stack != mix:
        for route in routes:
            route.append(mix)
    return routes


def _along(route: Sequence[tuple[int, int]], x: Tensor) -> Tensor:
    """`x` after all resizings but the last, which the convolution may postpone."""
    for size in route[:-1]:
        x = resize(x, size)
    return x


def _joined(maps: Sequence[Tensor]) -> Tensor:
    return maps[0] if len(maps) == 1 else torch.cat(list(maps), 1)


def _columns(weight: Tensor, pieces: Sequence[Piece]) -> Tensor:
    """The part of a convolution's weight (O, I, 3, 3) that these inputs meet."""
    return _joined([weight[:, piece.channels] for piece in pieces])
