"""Prototype baseline: cosine to the mean foreground and the mean background feature of the support.

Kaixin Wang, Jun Hao Liew, Yingtian Zou, Daquan Zhou, Jiashi Feng: "PANet: Few-Shot Image Semantic Segmentation with
Prototype Alignment", ICCV 2019: masked average pooling, cosine distance, and a regulariser that segments the support
with prototypes of the query's predicted mask (section 3.4).

The default is training-free: the frozen backbone's own features at several scales, one background prototype; the
baseline that learnt methods have to beat. `learned=True` trains, over the same frozen backbone, what PANet trains as
a whole network: a projection of each scale, the temperature and the scales' weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption
from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.base import FewShotMethod, check_image_size
from fewseg.models.ops.prototypes import cluster_means, masked_mean
from fewseg.models.ops.resize import map_size, resize


@dataclass(frozen=True)
class PrototypeConfig:
    """The baseline's choices."""

    image_size: int = 320
    """Side of the square input, pixels."""
    scales: tuple[int, ...] = (16, 32)
    """Scales (1/16, ...) whose last maps are compared; those the backbone lacks are left out."""
    temperature: float = 20.0
    """Factor on the difference of cosines; moves probabilities, never the mask. Where it is learned, its start."""
    foreground_prototypes: int = 1
    """Of each shot and scale; several are found by k-means, and the nearest of all shots counts (ours)."""
    background_prototypes: int = 1
    """The same for the background."""
    learned: bool = False
    """Train a projection of each scale, the temperature and the scales' weights; off, there is nothing to train."""
    width: int | None = None
    """Channels of the learned projections; None keeps the maps' own, and the projections start as the identity."""
    alignment: float = 1.0
    """Weight of the prototype alignment regulariser in training (PANet: 1); 0 leaves it out."""


class Prototype(FewShotMethod):
    """See the module's docstring."""

    name: ClassVar[str] = "prototype"
    Config: ClassVar[type] = PrototypeConfig

    def __init__(self, backbone: FeaturePyramid, config: PrototypeConfig = PrototypeConfig()) -> None:
        super().__init__()
        _check(config)
        self.config, self.backbone = config, backbone
        last = {block.scale: i for i, block in enumerate(backbone.blocks)}
        self.compared = {scale: last[scale] for scale in sorted(config.scales) if scale in last}
        if not self.compared:
            have = ", ".join(f"1/{s}" for s in backbone.scales)
            raise InvalidOption(f"backbone {backbone.name} has only {have}: choose scales among them")
        # Keeps device and dtype visible where a backbone is shared; what is learnt is a factor on it.
        self.temperature = nn.Parameter(torch.tensor(float(config.temperature)), requires_grad=False)
        if config.learned:
            self.project = nn.ModuleDict(
                {str(s): _projection(backbone.blocks[i].channels, config.width) for s, i in self.compared.items()}
            )
            self.log_factor = nn.Parameter(torch.zeros(()))
            self.scale_logits = nn.Parameter(torch.zeros(len(self.compared)))

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """The background's, then the foreground's prototypes of every shot and scale, (B, n, 2 or more, C)."""
        foreground = self._cast(masks == 1).flatten(0, 1).unsqueeze(1)
        shots, features = masks.shape[:2], self._features(maps)
        tensors = {f"prototypes.{s}": self._pool(m, foreground).unflatten(0, shots) for s, m in features.items()}
        support = SupportSet(self.name, map_size(masks), tensors, self.support_key)
        if self._aligns and torch.is_grad_enabled():
            support.shared.update({f"map.{s}": m.unflatten(0, shots) for s, m in features.items()}, masks=masks)
        return support

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        return QueryFeatures(image_size, {f"map.{s}": m for s, m in self._features(maps).items()})

    def _features(self, maps: list[Tensor]) -> dict[int, Tensor]:
        """The compared map of each scale, projected where that is learned."""
        if not self.config.learned:
            return {s: maps[i] for s, i in self.compared.items()}
        return {s: self.project[str(s)](maps[i]) for s, i in self.compared.items()}

    def _pool(self, features: Tensor, foreground: Tensor) -> Tensor:
        """Prototypes (N, background + foreground, C) of features (N, C, h, w) under masks (N, 1, H, W)."""
        near = resize(foreground, map_size(features))
        if self._counts == (1, 1):
            return torch.stack([masked_mean(features, 1 - near), masked_mean(features, near)], 1)
        sides = zip((1 - near, near), self._counts, strict=True)
        return torch.cat([cluster_means(features, mask, count) for mask, count in sides], 1)

    @property
    def _counts(self) -> tuple[int, int]:
        return self.config.background_prototypes, self.config.foreground_prototypes

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        total: Tensor | None = None
        finest = map_size(query.tensors[f"map.{min(self.compared)}"])
        # One weight each makes the mean below.
        weights: list[float] | Tensor = [1.0] * len(self.compared)
        if self.config.learned:
            weights = len(self.compared) * self.scale_logits.float().softmax(0)
        for scale, weight in zip(self.compared, weights, strict=True):
            cosines = self._cosines(query.tensors[f"map.{scale}"], support.tensors[f"prototypes.{scale}"])
            cosines = weight * resize(cosines, finest)
            total = cosines if total is None else total + cosines
        assert total is not None
        temperature: Tensor = self.temperature
        if self.config.learned:
            temperature = temperature * self.log_factor.exp()
            total = total - total.mean(1, keepdim=True)  # only the difference counts: half precision keeps more of it
        return resize(temperature * total.to(self.dtype) / len(self.compared), query.image_size)

    def _cosines(self, features: Tensor, prototypes: Tensor) -> Tensor:
        """(B, 2, h, w), background and foreground, of features (B, C, h, w) to prototypes (B, n, K, C)."""
        # Norms in float32: their floor of 1e-12 is zero in half precision.
        tokens, prototypes = F.normalize(features.float(), dim=1), prototypes.float()
        if self._counts == (1, 1):
            return _compare(tokens, prototypes.mean(1))
        sides = [p.mean(1) if p.shape[2] == 1 else p.flatten(1, 2) for p in prototypes.split(self._counts, 2)]
        return torch.cat([_compare(tokens, side).amax(1, keepdim=True) for side in sides], 1)

    @property
    def _aligns(self) -> bool:
        return self.training and self.config.learned and self.config.alignment > 0

    def regulariser(self, query: QueryFeatures, support: SupportSet, logits: Tensor) -> Tensor | None:
        """Prototype alignment: the roles of support and query change, the predicted mask stands for the true one.

        An episode in whose query no foreground was predicted adds 0: there is nothing to make a prototype of.
        """
        if not self._aligns or "masks" not in support.shared:
            return None
        found = logits.detach().argmax(1, keepdim=True).to(self.dtype)
        images = support.shared["masks"].expand(query.batch, -1, -1, -1)
        shots = images.shape[1]
        prototypes, maps = {}, {}
        for scale in self.compared:
            pooled = self._pool(query.tensors[f"map.{scale}"], found)
            prototypes[f"prototypes.{scale}"] = pooled.repeat_interleave(shots, 0).unsqueeze(1)
            shared = support.shared[f"map.{scale}"].expand(query.batch, -1, -1, -1, -1)
            maps[f"map.{scale}"] = shared.flatten(0, 1)
        swapped = SupportSet(self.name, query.image_size, prototypes)
        back = self._segment(QueryFeatures(support.image_size, maps), swapped).float()
        truth = (images == 1).flatten(0, 1).long().to(back.device)
        loss = F.cross_entropy(back, truth, reduction="none").mean((1, 2)).unflatten(0, (-1, shots)).mean(1)
        return cast("Tensor", self.config.alignment * (loss * found.flatten(1).amax(1)).mean())


def _compare(tokens: Tensor, prototypes: Tensor) -> Tensor:
    """Cosines (B, K, h, w) of unit features (B, C, h, w) to prototypes (1 or B, K, C)."""
    unit = F.normalize(prototypes, dim=-1)
    return torch.einsum("bchw,bkc->bkhw", tokens, unit.expand(tokens.shape[0], -1, -1))


def _projection(channels: int, width: int | None) -> nn.Conv2d:
    """1x1 convolution that keeps cosines at first: the identity, or where the width is another, an orthogonal matrix.

    Not an identity filled up with zeros: rows of zeros on both sides of a cosine never get a gradient.
    """
    layer = nn.Conv2d(channels, width or channels, 1, bias=False)
    if layer.out_channels == channels:
        nn.init.dirac_(layer.weight)
    else:
        nn.init.orthogonal_(layer.weight)
    return layer


def _check(config: PrototypeConfig) -> None:
    """Raise `InvalidOption` for values that mean nothing."""
    for name in ("foreground_prototypes", "background_prototypes", "width"):
        value = getattr(config, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InvalidOption(f"{name} {value!r}: give a whole number of at least 1")
    if config.width is not None and not config.learned:
        raise InvalidOption(f"width {config.width} without learned: only learned projections have a width")
    check_image_size(config.image_size)
    if not (config.temperature > 0 and math.isfinite(config.temperature)):
        raise InvalidOption(f"temperature {config.temperature}: give a finite number above 0")
    if not config.alignment >= 0:
        raise InvalidOption(f"alignment {config.alignment}: give 0 or more")
