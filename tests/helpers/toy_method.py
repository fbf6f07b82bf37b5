"""A method with a few thousand parameters, for tests that need to train, save or score something quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.backbones import BackboneSpec, FeaturePyramid, build_pyramid
from fewseg.models.methods.base import FewShotMethod
from fewseg.models.ops.resize import resize


@dataclass(frozen=True)
class ToyConfig:
    """Size of a `Toy`."""

    image_size: int = 32
    dropout: float = 0.2


class Toy(FewShotMethod):
    """Query features and their product with the support's prototypes through two convolutions, with dropout."""

    name: ClassVar[str] = "toy"
    Config: ClassVar[type] = ToyConfig

    def __init__(self, backbone: FeaturePyramid, config: ToyConfig = ToyConfig()) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        width = backbone.blocks[1].channels
        self.mix = nn.Conv2d(3 * width, 16, 1)
        self.out = nn.Conv2d(16, 2, 1)

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        near = resize(self._cast(masks == 1).flatten(0, 1).unsqueeze(1), maps[1].shape[-2:])
        both = [(maps[1] * m).sum((2, 3)) / m.sum((2, 3)).clamp(min=1e-3) for m in (1 - near, near)]
        tensors = {"prototype": torch.stack(both, 1).unflatten(0, masks.shape[:2])}
        return SupportSet(self.name, (masks.shape[-2], masks.shape[-1]), tensors)

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        return QueryFeatures(image_size, {"map": maps[1]})

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        maps = query.tensors["map"]
        prototypes = support.tensors["prototype"].mean(1).expand(maps.shape[0], -1, -1)
        parts = [maps, *(maps * p[:, :, None, None] for p in prototypes.unbind(1))]
        mixed = F.dropout(F.relu(self.mix(torch.cat(parts, 1))), self.config.dropout, self.training)
        return resize(self.out(mixed), query.image_size)


def toy(image_size: int = 32, seed: int = 0) -> Toy:
    """A new one, always with the same weights."""
    spec = BackboneSpec(
        "tiny", {"stem": 8, "widths": [8] * 4, "depths": [1] * 4, "strides": [2] * 4, "expansions": [2] * 4}
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Toy(build_pyramid(spec), ToyConfig(image_size)).eval()
