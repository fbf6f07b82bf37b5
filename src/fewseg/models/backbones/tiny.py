"""The embedded default backbone: a small network of inverted residual blocks that this project trained itself.

The blocks are those of Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, wider where
that helps to learn: it imitates a MobileNetV2 map by map (`scripts/distill.py`), from random weights. Once trained
there are no normalisation layers: batch norm helps the distillation and is then folded into the convolutions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fewseg.core.errors import InvalidOption
from fewseg.models.backbones.base import BackboneSpec, FeaturePyramid


@dataclass(frozen=True)
class TinyConfig:
    """Size of a `TinyNet`; the tuples have one entry per stage."""

    stem: int = 64
    """Channels of the first convolution (stride 2)."""
    thin: int = 16
    """Channels that it is narrowed to before the first stage."""
    widths: tuple[int, ...] = (24, 32, 64, 96, 160, 320)
    """Channels of a stage's maps."""
    depths: tuple[int, ...] = (2, 3, 4, 3, 3, 1)
    """Blocks."""
    strides: tuple[int, ...] = (2, 2, 2, 1, 2, 1)
    """Of the first block: 2 halves the map."""
    expansions: tuple[int, ...] = (8, 8, 6, 8, 8, 8)
    """How many times wider than its input a block is inside."""


class ConvNorm(nn.Module):
    """Convolution and batch norm; one convolution once folded. Strides of 2 put the padding's odd pixel last."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride == (1, 1):
            return cast("Tensor", self.norm(self.conv(x)))
        conv, kernel = self.conv, self.strided_kernel(x)
        return cast("Tensor", self.norm(F.conv2d(x, kernel, conv.bias, conv.stride, conv.padding, groups=conv.groups)))

    def strided_kernel(self, x: Tensor) -> Tensor:
        """The weight that a stride of 2 multiplies `x` with, which begins with zeros along even sides.

        Of an even side only the last pixel lacks a neighbour. The zeros move the same padding there, and are a few
        numbers to copy where the image would be millions.
        """
        height, width = x.shape[-2:]
        return F.pad(self.conv.weight, (1 - width % 2, 0, 1 - height % 2, 0))

    def fold(self) -> None:
        """Put the running statistics into the convolution."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv, self.norm = fuse_conv_bn_eval(self.conv.eval(), self.norm.eval()), nn.Identity()


class InvertedResidual(nn.Module):
    """Wide inside, narrow outside, and no activation where it is narrow."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = inputs * expansion
        self.expand: nn.Module = ConvNorm(inputs, inside, 1) if expansion > 1 else nn.Identity()
        self.expanded = expansion > 1
        self.depthwise = ConvNorm(inside, inside, 3, stride, groups=inside)
        self.project = ConvNorm(inside, outputs, 1)
        self.shortcut = stride == 1 and inputs == outputs

    def branch(self, x: Tensor) -> Tensor:
        """What the block adds to its shortcut, where it has one."""
        if self.expanded:
            x = F.relu6(self.expand(x), inplace=True)
        return cast("Tensor", self.project(F.relu6(self.depthwise(x), inplace=True)))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x) if self.shortcut else self.branch(x)


class TinyNet(nn.Module):
    """Maps of every block; by default at strides 4, 8, 16 (seven) and 32 (four)."""

    def __init__(self, config: TinyConfig = TinyConfig()) -> None:
        super().__init__()
        self.config = config
        self.stem = ConvNorm(3, config.stem, 3, 2)
        self.thin = InvertedResidual(config.stem, config.thin, 1, 1)
        self.blocks = nn.ModuleList()
        channels = config.thin
        for width, depth, stride, expansion in zip(
            config.widths, config.depths, config.strides, config.expansions, strict=True
        ):
            for place in range(depth):
                self.blocks.append(InvertedResidual(channels, width, stride if place == 0 else 1, expansion))
                channels = width

    def thinned(self, images: Tensor) -> Tensor:
        """What the first block gets, (B, thin, H / 2, W / 2)."""
        return cast("Tensor", self.thin(F.relu6(self.stem(images), inplace=True)))

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to one map (B, C, H / stride, W / stride) per block, finest first."""
        x = self.thinned(images)
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    @torch.no_grad()
    def fold_batch_norm(self) -> TinyNet:
        """Put the running statistics into the convolutions, in place; the outputs in eval mode stay the same."""
        self.eval()
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold()
        return self


class TinyPyramid(FeaturePyramid):
    """`TinyNet`, batch norm folded, as a feature pyramid; `options` of the spec are the fields of `TinyConfig`."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__(spec)
        options: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in spec.options.items()}
        fields = {field.name for field in dataclasses.fields(TinyConfig)}
        if not options.keys() <= fields:
            raise InvalidOption(
                f"backbone tiny does not take the options {options}, only {', '.join(sorted(fields))}: "
                "leave out the others, or name the backbone that the weights file is for"
            )
        config = TinyConfig(**options)
        stages = {len(getattr(config, name)) for name in ("widths", "depths", "strides", "expansions")}
        if len(stages) != 1:
            raise InvalidOption("backbone tiny: give as many widths as depths, strides and expansions")
        self.net = TinyNet(config).fold_batch_norm()
        self.blocks = self._measure(64)
        self.freeze().eval()

    def features(self, images: Tensor) -> list[Tensor]:
        return self.net(images)
