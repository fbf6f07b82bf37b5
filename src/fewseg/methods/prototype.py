"""Prototype baseline, training-free: cosine to the mean foreground and the mean background feature of the support.

The yardstick that learnt methods have to beat. After Kaixin Wang et al., "PANet", ICCV 2019 (masked average pooling,
cosine distance), with one background prototype and the frozen backbone's own features at several scales.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.backbones import FeaturePyramid
from fewseg.errors import InvalidOption
from fewseg.methods.base import FewShotMethod
from fewseg.ops.prototypes import masked_mean
from fewseg.ops.resize import map_size, resize
from fewseg.types import QueryFeatures, SupportSet


@dataclass(frozen=True)
class PrototypeConfig:
    """The baseline's choices."""

    image_size: int = 320
    """Side of the square input, pixels."""
    scales: tuple[int, ...] = (16, 32)
    """Scales (1/16, ...) whose last maps are compared; those the backbone lacks are left out."""
    temperature: float = 20.0
    """Factor on the difference of cosines; moves probabilities, never the mask."""


class Prototype(FewShotMethod):
    """See the module's docstring."""

    name: ClassVar[str] = "prototype"
    Config: ClassVar[type] = PrototypeConfig

    def __init__(self, backbone: FeaturePyramid, config: PrototypeConfig = PrototypeConfig()) -> None:
        super().__init__()
        self.config, self.backbone = config, backbone
        last = {block.scale: i for i, block in enumerate(backbone.blocks)}
        self.compared = {scale: last[scale] for scale in sorted(config.scales) if scale in last}
        if not self.compared:
            have = ", ".join(f"1/{s}" for s in backbone.scales)
            raise InvalidOption(f"backbone {backbone.name} has only {have}: choose scales among them")
        # Keeps device and dtype visible where a backbone is shared; nothing is learnt.
        self.temperature = nn.Parameter(torch.tensor(float(config.temperature)), requires_grad=False)

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """A foreground and a background prototype of every shot and scale, (B, n, 2, C)."""
        foreground = self._cast(masks == 1).flatten(0, 1).unsqueeze(1)
        tensors = {}
        for scale, index in self.compared.items():
            near = resize(foreground, map_size(maps[index]))
            both = torch.stack([masked_mean(maps[index], 1 - near), masked_mean(maps[index], near)], 1)
            tensors[f"prototypes.{scale}"] = both.unflatten(0, masks.shape[:2])
        return SupportSet(self.name, map_size(masks), tensors, self.encoder)

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        return QueryFeatures(image_size, {f"map.{s}": maps[i] for s, i in self.compared.items()})

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        total: Tensor | None = None
        finest = map_size(query.tensors[f"map.{min(self.compared)}"])
        for scale in self.compared:
            # Norms in float32: their floor of 1e-12 is zero in half precision.
            prototypes = F.normalize(support.tensors[f"prototypes.{scale}"].float().mean(1), dim=-1)  # (B, 2, C)
            tokens = F.normalize(query.tensors[f"map.{scale}"].float(), dim=1)
            cosines = torch.einsum("bchw,bkc->bkhw", tokens, prototypes.expand(query.batch, -1, -1))
            cosines = resize(cosines, finest)
            total = cosines if total is None else total + cosines
        assert total is not None
        return resize(self.temperature * total.to(self.dtype) / len(self.compared), query.image_size)
