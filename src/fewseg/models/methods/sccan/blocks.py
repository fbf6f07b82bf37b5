"""SCCAN's blocks of self-calibrated cross attention, and the head behind them."""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.models.methods.sccan.config import SCCANConfig
from fewseg.models.ops.cosine import unit
from fewseg.models.ops.window_attention import (
    align,
    partition,
    self_calibrated_attention,
    take,
    unite,
    window_prototypes,
)


class SupportWindows(NamedTuple):
    """What a block's query stream needs of the support, unaligned; a batch of 1 serves every query."""

    key: Tensor
    """(B, n, heads, T, d), of length one for the cosine."""
    value: Tensor
    """(B, n, heads, T, d)."""
    prototype: Tensor
    """(B, n, C)."""
    foreground: Tensor
    """(B, n), 1 for windows that have any."""


class Stream(nn.Module):
    """What the query or the support has for itself in a block: attention projections and an MLP."""

    def __init__(self, config: SCCANConfig) -> None:
        super().__init__()
        width, hidden = config.width, int(config.width * config.mlp_ratio)
        self.heads = config.heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def queries(self, windows: Tensor) -> Tensor:
        """(B, n, T, C) to (B, n, heads, T, d)."""
        return self._split(self.q(windows))

    def keys_values(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        keys, values = self.kv(windows).chunk(2, -1)
        return self._split(keys), self._split(values)

    def joined(self, attended: Tensor) -> Tensor:
        """(B, n, heads, T, d) to (B, n, T, C), projected."""
        return self.proj(attended.transpose(2, 3).flatten(-2))

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(2, 3)


class Block(nn.Module):
    """A block of self-calibrated cross attention: patch alignment, then the attention. Maps are (B, H, W, C)."""

    support: Stream | None

    def __init__(self, config: SCCANConfig, index: int) -> None:
        super().__init__()
        self.config = config
        # Shifted windows do not roll: the map is padded with zeros, and padded tokens are ordinary keys.
        self.padding = config.window // 2 if config.shift and index % 2 else 0
        self.norm1, self.norm2 = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.query = Stream(config)
        # Nothing looks at the support after the last block.
        self.support = Stream(config) if index < config.blocks - 1 else None

    def encode_support(self, x: Tensor, mask: Tensor) -> SupportWindows:
        """Support (B, H, W, C) and its mask (B, H, W, 1) as the query will see them."""
        windows = self._windows(x)
        prototype, foreground = window_prototypes(windows, self._cut(mask).squeeze(-1))
        key, value = self.query.keys_values(windows)
        return SupportWindows(unit(key, -1) if self.config.cosine else key, value, prototype, foreground)

    def next_support(self, x: Tensor) -> Tensor:
        """The support after this block, by attention within its own windows; it never sees the query."""
        if self.support is None:
            return x
        windows = self._windows(x)
        query, (key, value) = self.support.queries(windows), self.support.keys_values(windows)
        attended = self_calibrated_attention(
            query, None, (key, value), cosine=False, implementation=self.config.implementation
        )
        return self._add(x, self.support, attended)

    def forward(self, x: Tensor, support: SupportWindows) -> Tensor:
        """The query after this block."""
        windows = self._windows(x)
        if self.config.align:
            index = align(windows.float().mean(2), support.prototype, support.foreground)
            key, value = take(support.key, index), take(support.value, index)
        else:
            key, value = (t.expand(len(x), -1, -1, -1, -1) for t in (support.key, support.value))
        attended = self_calibrated_attention(
            self.query.queries(windows),
            self.query.keys_values(windows) if self.config.self_calibrated else None,
            (key, value),
            cosine=self.config.cosine,
            implementation=self.config.implementation,
        )
        return self._add(x, self.query, attended)

    def _cut(self, x: Tensor) -> Tensor:
        return partition(x, self.config.window, self.padding)

    def _windows(self, x: Tensor) -> Tensor:
        return self._cut(self.norm1(x))

    def _add(self, x: Tensor, stream: Stream, attended: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        x = x + unite(stream.joined(attended), self.config.window, size, self.padding)
        return x + stream.mlp(self.norm2(x))


class Transformer(nn.Module):
    """All blocks, and the norm after them."""

    def __init__(self, config: SCCANConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

    def encode_support(self, x: Tensor, mask: Tensor) -> list[SupportWindows]:
        """The support stream through every block."""
        encoded = []
        for block in cast("list[Block]", self.blocks):
            encoded.append(block.encode_support(x, mask))
            x = block.next_support(x)
        return encoded

    def forward(self, x: Tensor, support: list[SupportWindows]) -> Tensor:
        for block, windows in zip(self.blocks, support, strict=True):
            x = block(x, windows)
        return self.norm(x)


class Head(nn.Module):
    """Pyramid pooling with dilated convolutions, one residual step, two logits."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        dilated = [nn.Conv2d(width, width, 3, padding=d, dilation=d) for d in (6, 12, 18)]
        self.branches = nn.ModuleList([nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1), *dilated])
        for branch in cast("list[nn.Conv2d]", self.branches):
            nn.init.kaiming_normal_(branch.weight)  # as the released code: 2.45 times as wide as torch's own start
        self.reduce = nn.Conv2d(5 * width, width, 1, bias=False)

        def conv() -> nn.Conv2d:
            return nn.Conv2d(width, width, 3, padding=1, bias=False)

        self.refine = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU())
        self.classify = nn.Sequential(conv(), nn.ReLU(), nn.Dropout2d(dropout), nn.Conv2d(width, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        whole = x.mean((2, 3), keepdim=True)
        pyramid = [F.relu(branch(whole if i == 0 else x)) for i, branch in enumerate(self.branches)]
        pyramid[0] = pyramid[0].expand_as(x)
        x = F.relu(self.reduce(torch.cat(pyramid, 1)))
        return self.classify(x + self.refine(x))
