"""Hypercorrelation squeeze networks (HSNet).

Juhong Min, Dahyun Kang, Minsu Cho: "Hypercorrelation Squeeze for Few-Shot Segmentation", ICCV 2021.

Every position of a query map is compared with every position of the support's, background removed, for every block of
the backbone at scales 1/8, 1/16 and 1/32. The 4-D correlations of a scale are stacked as channels; centre-pivot 4-D
convolutions squeeze their support plane and merge the scales, coarse to fine. A small decoder ends in two logits a
pixel. Each shot is run alone, and the shots vote.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, cast, get_args

import torch
from torch import Tensor, nn

from fewseg.core.errors import InvalidOption, unknown
from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.base import FewShotMethod, check_image_size
from fewseg.models.ops.correlation import PivotKernel, centre_pivot_convolution, convolve_correlation, unit_maps
from fewseg.models.ops.fusion import hsnet_vote, mean_probability
from fewseg.models.ops.group_norm import group_norm_relu
from fewseg.models.ops.resize import map_size, resize

Fusion = Literal["vote", "average"]


@dataclass(frozen=True)
class HSNetConfig:
    """HSNet's choices; the defaults are the published ones."""

    image_size: int = 400
    """Side of the square input, pixels."""
    scales: tuple[int, ...] = (8, 16, 32)
    """Scales (1/8, ...) at which query and support are correlated; those the backbone lacks are left out."""
    fusion: Fusion = "vote"
    """How the shots' predictions become one: `vote` (published, section 4.4) or `average`, of their probabilities."""
    support_masking: bool = True
    """Whether the support maps' background is set to zero; without (a variant of the paper's section 5), the masks are
    not used at all."""


SCALES = (2, 4, 8, 16, 32, 64)
"""Scales that a pyramid can have."""

KERNELS = {32: (3, 3, 3), 16: (5, 3, 3), 8: (5, 5, 3)}
"""Kernel sizes of the squeezing convolutions; other scales take those of the nearest."""

STRIDES = {32: (2, 2, 2), 16: (4, 2, 2), 8: (4, 4, 2)}
"""Their strides over the support plane."""

WIDTHS = (16, 64, 128)
"""Their channels; the last is the width of all that follows."""


class PivotBlock(nn.Module):
    """Centre-pivot 4-D convolution, GroupNorm(4) over all four dimensions, ReLU; tensors (B, hq, wq, hs, ws, C)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        self.support = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
        self.norm = nn.GroupNorm(4, outputs)
        self.stride = stride

    @property
    def kernel(self) -> PivotKernel:
        query, support = self.query, self.support
        assert query.bias is not None
        assert support.bias is not None
        return PivotKernel(query.weight, query.bias, support.weight, support.bias, self.stride)

    def first(self, query: list[Tensor], support: list[Tensor]) -> Tensor:
        """Of the correlation of unit maps (B, C, hq, wq) and (B, C, hs, ws), which is never held whole."""
        return self._activate(convolve_correlation(query, support, self.kernel))

    def forward(self, x: Tensor) -> Tensor:
        return self._activate(centre_pivot_convolution(x, self.kernel))

    def _activate(self, x: Tensor) -> Tensor:
        norm = self.norm
        flat = x.flatten(3, 4).flatten(1, 2)  # (B, Nq, Ns, C), no copy: overwritten where gradients are off
        return group_norm_relu(flat, norm.num_groups, norm.weight, norm.bias, norm.eps).reshape(x.shape)


def squeeze(blocks: int, scale: int) -> nn.ModuleList:
    """The three blocks over the stacked correlations of a scale."""
    nearest = min(KERNELS, key=lambda known: abs(math.log2(known / scale)))
    channels = zip((blocks, *WIDTHS), WIDTHS, KERNELS[nearest], STRIDES[nearest], strict=False)
    return nn.ModuleList(PivotBlock(*sizes) for sizes in channels)


def conv_relu_conv(inputs: int, hidden: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, outputs, 3, padding=1)]


class HSNet(FewShotMethod):
    """The method over any feature pyramid; see the module's docstring for the paper.

    Shots are fused as the config says, except in training mode with several shots: there the logits are the mean of the
    shots' logits, because votes have no gradient.
    """

    name: ClassVar[str] = "hsnet"
    Config: ClassVar[type] = HSNetConfig
    backbone_aliases: ClassVar[Mapping[str, str]] = {"vgg16": "vgg16_convolutions"}
    pretrained_backbones: ClassVar[Mapping[str, str]] = {
        "resnet50": "resnet50.tv_in1k",
        "resnet101": "resnet101.tv_in1k",
    }
    """torchvision's first weights (`IMAGENET1K_V1`), as in the released code."""

    def __init__(self, backbone: FeaturePyramid, config: HSNetConfig = HSNetConfig()) -> None:
        super().__init__()
        _check(config)
        self.config, self.backbone = config, backbone
        self.scales = sorted({*config.scales} & {*backbone.scales}, reverse=True)
        if not self.scales:
            have = ", ".join(f"1/{s}" for s in backbone.scales)
            raise InvalidOption(f"backbone {backbone.name} has only {have}: choose scales among them")
        self.compared = {s: [i for i, b in enumerate(backbone.blocks) if b.scale == s] for s in self.scales}
        width = WIDTHS[-1]
        self.squeeze = nn.ModuleDict({str(s): squeeze(len(self.compared[s]), s) for s in self.scales})
        self.mix = nn.ModuleDict(
            {str(s): nn.Sequential(*(PivotBlock(width, width, 3, 1) for _ in range(3))) for s in self.scales[1:]}
        )
        self.decoder1 = nn.Sequential(*conv_relu_conv(width, width, 64), nn.ReLU())
        self.decoder2 = nn.Sequential(*conv_relu_conv(64, 64, 2))

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """Masked unit maps (B, n, C, h, w) of every block compared; section 4.1 of the paper."""
        foreground = self._cast(masks == 1).flatten(0, 1).unsqueeze(1)
        tensors = {}
        for index in self._indices:
            kept = maps[index]
            if self.config.support_masking:
                kept = kept * resize(foreground, map_size(kept))
            tensors[f"map.{index}"] = unit_maps(kept).unflatten(0, masks.shape[:2])
        return SupportSet(self.name, map_size(masks), tensors, self.support_key)

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        """Unit maps (B, C, h, w) of every block compared."""
        return QueryFeatures(image_size, {f"map.{i}": unit_maps(maps[i]) for i in self._indices})

    @property
    def _indices(self) -> list[int]:
        return [index for scale in self.scales for index in self.compared[scale]]

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        if not isinstance(support.shots, int):  # a graph in which it is open: a loop would fix it
            return self._fused(self._shots_at_once(query, support))
        # One shot after another: memory does not grow with n.
        shots = [self._one_shot(query, {k: t[:, n] for k, t in support.tensors.items()}) for n in range(support.shots)]
        if len(shots) == 1:
            return shots[0]
        logits = torch.stack(shots, 1)
        if self.training:
            return logits.mean(1)
        return self._fused(logits)

    def _fused(self, logits: Tensor) -> Tensor:
        return hsnet_vote(logits) if self.config.fusion == "vote" else mean_probability(logits)

    def _shots_at_once(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        """Logits (B, n, 2, H, W) of every shot, for graphs in which their number is open: shots as items of a batch."""
        pairs = (query.batch, support.shots)
        repeated = {k: t.unsqueeze(1).expand(*pairs, *t.shape[1:]).flatten(0, 1) for k, t in query.tensors.items()}
        shots = {k: t.expand(*pairs, *t.shape[2:]).flatten(0, 1) for k, t in support.tensors.items()}
        return self._one_shot(QueryFeatures(query.image_size, repeated), shots).unflatten(0, pairs)

    def _one_shot(self, query: QueryFeatures, support: dict[str, Tensor]) -> Tensor:
        """Logits (B, 2, H, W) from the support maps (B or 1, C, h, w) of one shot."""
        x: Tensor | None = None
        for scale in self.scales:
            names = [f"map.{index}" for index in self.compared[scale]]
            first, *others = cast("nn.ModuleList", self.squeeze[str(scale)])
            finer = cast("PivotBlock", first).first([query.tensors[n] for n in names], [support[n] for n in names])
            for block in others:
                finer = block(finer)
            x = finer if x is None else self.mix[str(scale)](resize_planes(x, finer) + finer)
        assert x is not None
        pooled = x.mean((3, 4)).permute(0, 3, 1, 2)
        decoded = self.decoder1(pooled)
        height, width = map_size(decoded)
        return resize(self.decoder2(resize(decoded, (2 * height, 2 * width))), query.image_size)


def resize_planes(x: Tensor, like: Tensor) -> Tensor:
    """Both planes of (B, hq, wq, hs, ws, C) resized bilinearly to those of `like`.

    The released networks' support planes agree already; those of other backbones may not.
    """
    support = tuple(like.shape[3:5])
    if tuple(x.shape[3:5]) != support:
        flat = resize(x.flatten(0, 2).permute(0, 3, 1, 2), (support[0], support[1]))
        x = flat.permute(0, 2, 3, 1).unflatten(0, x.shape[:3])
    flat = x.flatten(3).permute(0, 3, 1, 2)
    return resize(flat, (like.shape[1], like.shape[2])).permute(0, 2, 3, 1).unflatten(3, x.shape[3:])


def _check(config: HSNetConfig) -> None:
    """Raise `InvalidOption` for values that mean nothing."""
    if config.fusion not in get_args(Fusion):
        raise unknown("fusion", str(config.fusion), get_args(Fusion))
    wrong = [s for s in config.scales if s not in SCALES]
    if wrong:
        raise InvalidOption(f"scales has {wrong}: choose among {', '.join(map(str, SCALES))}")
    check_image_size(config.image_size)
