"""Frozen feature pyramids: `create_backbone` finds, builds and fills them; `build_pyramid` only builds."""

from fewseg.models.backbones.base import BackboneSpec, BlockInfo, FeaturePyramid
from fewseg.models.backbones.create import build_pyramid, create_backbone

__all__ = ["BackboneSpec", "BlockInfo", "FeaturePyramid", "build_pyramid", "create_backbone"]
