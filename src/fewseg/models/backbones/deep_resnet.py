"""ResNets with a deep stem and dilated stages: SCCAN's backbones.

Three 3x3 convolutions (64, 64, 128) take the place of the 7x7 one; with output stride 8 the last two stages dilate
instead of striding. Yields the output of every stage after its last ReLU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fewseg.models.backbones.base import BackboneSpec, FeaturePyramid
from fewseg.models.backbones.timm_pyramid import create_timm_model, resnet_stages

DEEP_STEM = {
    "conv1.": "conv1.0.",
    "bn1.": "conv1.1.",
    "conv2.": "conv1.3.",
    "bn2.": "conv1.4.",
    "conv3.": "conv1.6.",
    "bn3.": "bn1.",
}
"""The stem's names in SCCAN's release, and timm's."""


class DeepResNetPyramid(FeaturePyramid):
    """One map a stage, after its last ReLU."""

    def __init__(self, spec: BackboneSpec, timm_name: str) -> None:
        super().__init__(spec)
        model: Any = create_timm_model(timm_name, **spec.options)[0]
        model.reset_classifier(0)
        self.net: nn.Module = model
        self.blocks = self._measure(64)
        self.freeze().eval()

    def features(self, images: Tensor) -> list[Tensor]:
        net: Any = self.net
        x = net.maxpool(net.act1(net.bn1(net.conv1(images))))
        maps: list[Tensor] = []
        for stage in resnet_stages(net):
            x = stage(x)
            maps.append(x)
        return maps


def timm_stem_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with timm's names, where the deep stem's layers are written as conv1, bn1, ..., conv3, bn3."""
    if "conv3.weight" not in state:
        return dict(state)
    return {re.sub(r"^(conv|bn)[123]\.", lambda match: DEEP_STEM[match[0]], key): value for key, value in state.items()}
