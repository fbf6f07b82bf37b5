"""Self-calibrated cross attention network (SCCAN).

Qianxiong Xu, Wenting Zhao, Guosheng Lin, Cheng Long: "Self-Calibrated Cross Attention Network for Few-Shot
Segmentation", ICCV 2023.

Query and support are cut into windows. Each query window attends to itself and to the support window that resembles it
most, in one softmax: query background, which finds nothing alike in a support whose background is masked out, finds
itself instead of being mixed with foreground. Shots are averaged before the attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.backbones.levels import middle_levels
from fewseg.models.methods.base import FewShotMethod
from fewseg.models.methods.sccan.blocks import Head, SupportWindows, Transformer
from fewseg.models.methods.sccan.config import SCCANConfig, check_config
from fewseg.models.ops.cosine import unit
from fewseg.models.ops.prior import cosine_prior, cosine_prior_of_shots
from fewseg.models.ops.resize import map_size, resize
from fewseg.models.ops.window_attention import PROTOTYPE_FLOOR


class SCCAN(FewShotMethod):
    """See the module's docstring. Runs over any pyramid; widths are read off it.

    Whatever the input's size and shape, features are resized to one square grid (`SCCANConfig.feature_size`).
    """

    name: ClassVar[str] = "sccan"
    Config: ClassVar[type] = SCCANConfig
    backbone_aliases: ClassVar[Mapping[str, str]] = {
        "resnet50": "resnet50_deep_dilated",
        "resnet101": "resnet101_deep_dilated",
    }
    benchmark_protocol: ClassVar[str] = "sccan"
    adamw_parameters: ClassVar[tuple[str, ...]] = ("transformer.",)

    def __init__(self, backbone: FeaturePyramid, config: SCCANConfig = SCCANConfig()) -> None:
        super().__init__()
        check_config(config)
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
        if config.alike_start:
            self._start_alike()

    @torch.no_grad()
    def _start_alike(self) -> None:
        """Reduced alike, query and support can be compared; drawn for one input, the prior counts beside so many."""
        features = 2 * self.config.width
        if self.config.prior:
            self.merge_query.weight[:, features:] *= self.merge_query.in_channels**0.5
        self.down_support.weight.copy_(self.down_query.weight)
        # The mask stands where the query has its prior, if it has one.
        self.merge_support.weight[:, : self.merge_query.in_channels].copy_(self.merge_query.weight)

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
        return SupportSet(self.name, map_size(masks), shaped, self.support_key)

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
