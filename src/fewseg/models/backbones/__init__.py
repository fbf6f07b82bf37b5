"""Frozen feature pyramids: `create_backbone` finds, builds and fills them; `build_pyramid` only builds."""

from fewseg.models.backbones.base import ALL_MAPS, BackboneSpec, BlockInfo, FeaturePyramid, MapChoice
from fewseg.models.backbones.create import build_pyramid, create_backbone

__all__ = ["ALL_MAPS", "BackboneSpec", "BlockInfo", "FeaturePyramid", "MapChoice", "build_pyramid", "create_backbone"]
