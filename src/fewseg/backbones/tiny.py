"""The embedded default backbone: a small residual network that this project trained itself.

Plain 3x3 convolutions, because they are fast on every device and runtime, and no normalisation layers once trained:
batch norm helps the distillation (`scripts/train_default.py`) and is then folded into the convolutions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from fewseg.backbones.base import BackboneSpec, FeaturePyramid
from fewseg.errors import InvalidOption


@dataclass(frozen=True)
class TinyConfig:
    """Size of a `TinyNet`."""

    stem: int = 32
    """Channels of the first convolution (stride 2)."""
    widths: tuple[int, ...] = (48, 96, 192, 256)
    """Channels at strides 4, 8, 16 and 32."""
    depths: tuple[int, ...] = (1, 3, 4, 2)
    """Residual blocks at strides 4, 8, 16 and 32."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; returns the sum *before* its ReLU, as DCAMA's feature maps are."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.norm1: nn.Module = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norm2: nn.Module = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            # Averaging before a 1x1 convolution keeps every pixel; a strided 1x1 convolution drops three in four.
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return self.norm2(self.conv2(y)) + self.shortcut(x)


class TinyNet(nn.Module):
    """Maps of every block at strides 4, 8, 16, 32, each before its last ReLU."""

    def __init__(self, config: TinyConfig = TinyConfig()) -> None:
        super().__init__()
        self.config = config
        self.stem = nn.Conv2d(3, config.stem, 3, 2, 1)
        self.stem_norm: nn.Module = nn.BatchNorm2d(config.stem)
        self.stages = nn.ModuleList()
        channels = config.stem
        for width, depth in zip(config.widths, config.depths, strict=True):
            blocks = [ResidualBlock(channels if i == 0 else width, width, 2 if i == 0 else 1) for i in range(depth)]
            self.stages.append(nn.ModuleList(blocks))
            channels = width

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to one map (B, C, H / stride, W / stride) per block, finest first."""
        x = self.stem_norm(self.stem(images))
        maps = []
        for stage in self.stages:
            for block in stage:  # type: ignore[attr-defined]
                x = block(F.relu(x))
                maps.append(x)
        return maps

    @torch.no_grad()
    def fold_batch_norm(self) -> TinyNet:
        """Put the running statistics into the convolutions, in place; the outputs in eval mode stay the same."""
        self.eval()
        if isinstance(self.stem_norm, nn.BatchNorm2d):
            self.stem, self.stem_norm = fuse_conv_bn_eval(self.stem, self.stem_norm), nn.Identity()
        for block in self.modules():
            if isinstance(block, ResidualBlock) and isinstance(block.norm1, nn.BatchNorm2d):
                assert isinstance(block.norm2, nn.BatchNorm2d)
                block.conv1, block.norm1 = fuse_conv_bn_eval(block.conv1, block.norm1), nn.Identity()
                block.conv2, block.norm2 = fuse_conv_bn_eval(block.conv2, block.norm2), nn.Identity()
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
        self.net = TinyNet(TinyConfig(**options)).fold_batch_norm()
        self.blocks = self._measure(64)
        self.freeze().eval()

    def features(self, images: Tensor) -> list[Tensor]:
        return self.net(images)
