"""Self-calibrated cross attention network (SCCAN).

Qianxiong Xu, Wenting Zhao, Guosheng Lin, Cheng Long: "Self-Calibrated Cross Attention Network for Few-Shot
Segmentation", ICCV 2023.

Query and support are cut into windows. Each query window attends to itself and to the support window that resembles it
most, in one softmax: query background, which finds nothing alike in a support whose background is masked out, finds
itself instead of being mixed with foreground. Shots are averaged before the attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.backbones import FeaturePyramid
from fewseg.backbones.levels import middle_levels
from fewseg.errors import InvalidOption, unknown
from fewseg.methods.base import FewShotMethod, check_image_size
from fewseg.ops.cosine import unit
from fewseg.ops.prior import cosine_prior, cosine_prior_of_shots
from fewseg.ops.resize import map_size, resize
from fewseg.ops.window_attention import (
    PROTOTYPE_FLOOR,
    WindowImplementation,
    align,
    partition,
    self_calibrated_attention,
    take,
    unite,
    window_prototypes,
)
from fewseg.types import QueryFeatures, SupportSet


@dataclass(frozen=True)
class SCCANConfig:
    """SCCAN's choices; the defaults are the published ones."""

    image_size: int = 473
    """Side of the square input, pixels."""
    feature_size: int | None = None
    """Side of the square grid that maps are resized to; None: 1/8 of the image, rounded up to whole windows (64)."""
    width: int = 256
    """Channels of the features, the attention and the head."""
    blocks: int = 8
    """Attention blocks."""
    heads: int = 8
    """Attention heads."""
    window: int = 8
    """Side of a window, tokens."""
    mlp_ratio: float = 1.0
    """Hidden width of the blocks' MLPs, in widths."""
    shift: bool = True
    """Whether every second block's windows are shifted by half a window."""
    align: bool = True
    """Patch alignment: each query window looks at the most similar support window; off: at the one in its place."""
    cosine: bool = True
    """Scaled cosine: the support half is compared by cosine; off: by scaled dot product like the query half."""
    self_calibrated: bool = True
    """Whether a query window's own tokens are among its keys and values."""
    prior: bool = True
    """Whether the cosine prior of the deepest maps is given to the query."""
    dropout: float = 0.5
    """Dropout of whole channels of the reduced features, in training."""
    head_dropout: float = 0.1
    """Dropout of whole channels before the last convolution, in training."""
    implementation: WindowImplementation = "auto"
    """How windows attend: `reference` materialises the scores, `streaming` never does, `auto` chooses by device."""


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


class SCCAN(FewShotMethod):
    """See the module's docstring. Runs over any pyramid; widths are read off it.

    Whatever the input's size and shape, features are resized to one square grid (`SCCANConfig.feature_size`).
    """

    name: ClassVar[str] = "sccan"
    Config: ClassVar[type] = SCCANConfig
    own_backbones: ClassVar[Mapping[str, str]] = {
        "resnet50": "resnet50_deep_dilated",
        "resnet101": "resnet101_deep_dilated",
    }
    attention_parts: ClassVar[tuple[str, ...]] = ("transformer.",)

    def __init__(self, backbone: FeaturePyramid, config: SCCANConfig = SCCANConfig()) -> None:
        super().__init__()
        _check(config)
        self.config, self.backbone = config, backbone
        side = config.feature_size or -(-config.image_size // (8 * config.window)) * config.window
        self.grid = (side, side)
        self.middle = middle_levels(backbone.blocks)
        channels, width = sum(backbone.blocks[i].channels for i in self.middle), config.width
        self.down_query = nn.Conv2d(channels, width, 1, bias=False)
        self.down_support = nn.Conv2d(channels, width, 1, bias=False)
        self.merge_query = nn.Conv2d(2 * width + config.prior, width, 1, bias=False)
        self.merge_support = nn.Conv2d(2 * width + 1, width, 1, bias=False)
        self.transformer = Transformer(config)
        self.head = Head(width, config.head_dropout)

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """Masked features, masks, prototypes and the deepest maps of every shot, each (B, n, ...)."""
        mask = resize(self._cast(masks == 1).flatten(0, 1).unsqueeze(1), self.grid)
        feature = self._reduced(maps, self.down_support) * mask
        # Sums in float32: half precision overflows, and has no such floor.
        prototype = feature.float().sum((2, 3)) / (mask.float().sum((2, 3)) + PROTOTYPE_FLOOR)
        tensors = {"feature": feature, "mask": mask, "prototype": prototype.to(feature.dtype)}
        if self.config.prior:
            tensors["deep"] = unit(resize(maps[-1], self.grid), 1)
        shaped = {name: tensor.unflatten(0, masks.shape[:2]) for name, tensor in tensors.items()}
        return SupportSet(self.name, map_size(masks), shaped, self.encoder)

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        """Reduced features and the deepest map."""
        tensors = {"feature": self._reduced(maps, self.down_query)}
        if self.config.prior:
            tensors["deep"] = unit(maps[-1], 1)
        return QueryFeatures(image_size, tensors)

    def _reduced(self, maps: list[Tensor], down: nn.Conv2d) -> Tensor:
        """The two middle levels as one feature map of the grid's size."""
        fine, coarse = (maps[i] for i in self.middle)
        size = max(map_size(fine), map_size(coarse))
        x = F.relu(down(torch.cat([resize(fine, size), resize(coarse, size)], 1)))
        return resize(F.dropout2d(x, self.config.dropout, self.training), self.grid)

    def prior(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        """The cosine prior (B, 1, *grid), mean over the shots."""
        deep = query.tensors["deep"]
        if torch.compiler.is_exporting():  # a loop would fix the number of shots
            keys, mask = (support.tensors[name][0] for name in ("deep", "mask"))
            every = cosine_prior_of_shots(deep.flatten(2), keys.flatten(2), mask.flatten(1))
            return resize(every.unflatten(2, map_size(deep)), self.grid).mean(1, keepdim=True).to(deep.dtype)
        priors = []
        for shot in range(support.shots):
            keys, mask = (support.tensors[name][:, shot] for name in ("deep", "mask"))
            prior = cosine_prior(deep.flatten(2), keys.flatten(2), mask.flatten(1))
            priors.append(resize(prior.view(-1, 1, *map_size(deep)), self.grid))
        return torch.stack(priors).mean(0).to(deep.dtype)

    def fuse(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        """The query's features after the last block and its norm, (B, C, *grid)."""
        prototype, stream = self._stream(support)
        parts = [query.tensors["feature"], prototype[:, :, None, None].expand(query.batch, -1, *self.grid)]
        if self.config.prior:
            parts.append(self.prior(query, support))
        x = self.merge_query(torch.cat(parts, 1))
        return self.transformer(x.permute(0, 2, 3, 1), stream).permute(0, 3, 1, 2)

    def low_logits(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        """Logits on the grid, (B, 2, *grid)."""
        return self.head(F.relu(self.fuse(query, support)))

    def prepare_support(self, support: SupportSet) -> None:
        """The support stream through every block."""
        self._stream(support)

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        return resize(self.low_logits(query, support), query.image_size)

    def _stream(self, support: SupportSet) -> tuple[Tensor, list[SupportWindows]]:
        """The mean prototype (B, C) and every block's view of the support; kept with the support set."""
        shared = support.shared
        if not shared or torch.is_grad_enabled():
            shared = self._run_support(support)
            # Rounded by autocast, they would be of another precision than what looks at them without it.
            if not torch.is_grad_enabled() and not torch.is_autocast_enabled(self.device.type):
                support.shared.update(shared)
        names = SupportWindows._fields
        blocks = [SupportWindows(*(shared[f"{i}.{name}"] for name in names)) for i in range(self.config.blocks)]
        return shared["prototype"], blocks

    def _run_support(self, support: SupportSet) -> dict[str, Tensor]:
        """Shots averaged, then the support stream through every block."""
        feature, mask, prototype = (support.tensors[name].mean(1) for name in ("feature", "mask", "prototype"))
        spread = prototype[:, :, None, None].expand(-1, -1, *self.grid)
        x = self.merge_support(torch.cat([feature, spread, mask], 1)).permute(0, 2, 3, 1)
        encoded = self.transformer.encode_support(x, mask.permute(0, 2, 3, 1))
        blocks = {f"{i}.{name}": t for i, windows in enumerate(encoded) for name, t in windows._asdict().items()}
        return {"prototype": prototype, **blocks}


def _check(config: SCCANConfig) -> None:
    """Raise `InvalidOption` for values that mean nothing."""
    if config.implementation not in get_args(WindowImplementation):
        raise unknown("implementation", str(config.implementation), get_args(WindowImplementation))
    check_image_size(config.image_size)
    for name in ("feature_size", "width", "blocks", "heads", "window"):
        value = getattr(config, name)
        if (type(value) is not int or value < 1) and (name, value) != ("feature_size", None):
            raise InvalidOption(f"{name} {value!r}: give a whole number of at least 1")
    if config.width % config.heads:
        raise InvalidOption(f"width {config.width} is not a multiple of heads {config.heads}: change one")
    if config.feature_size is not None and config.feature_size % config.window:
        raise InvalidOption(
            f"feature_size {config.feature_size} is not a multiple of window {config.window}: change one"
        )
    if config.shift and config.window % 2:
        raise InvalidOption(f"window {config.window} cannot be shifted by half: give an even one, or shift=False")
    if config.mlp_ratio * config.width < 1:
        raise InvalidOption(f"mlp_ratio {config.mlp_ratio} leaves no hidden channels: give a larger one")
    for name in ("dropout", "head_dropout"):
        if not 0 <= getattr(config, name) < 1:
            raise InvalidOption(f"{name} {getattr(config, name)}: give a value from 0 to below 1")
