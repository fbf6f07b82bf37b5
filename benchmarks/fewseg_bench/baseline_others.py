"""Baseline implementations of HSNet and SCCAN: the same weights, every query with its support encoded anew."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures
from fewseg.models.methods.hsnet import HSNet
from fewseg.models.methods.sccan.method import SCCAN
from fewseg.models.ops.resize import resize


class BaselineHSNet(HSNet):
    """The 4-D correlation of every scale held whole, channels first, and convolved as whole tensors.

    Tensors are (B, C, hq, wq, hs, ws).
    """

    def _one_shot(self, query: QueryFeatures, support: dict[str, Tensor]) -> Tensor:
        x = None
        for scale, finer in self.correlations(query, support).items():
            for block in cast("nn.ModuleList", self.squeeze[str(scale)]):
                finer = baseline_pivot(block, finer)
            if x is not None:
                finer = self._to_size(x, finer) + finer
                for block in cast("nn.ModuleList", self.mix[str(scale)]):
                    finer = baseline_pivot(block, finer)
            x = finer
        assert x is not None
        decoded = self.decoder1(x.mean((4, 5)))
        return resize(self.decoder2(resize(decoded, (2 * decoded.shape[2], 2 * decoded.shape[3]))), query.image_size)

    def correlations(self, query: QueryFeatures, support: dict[str, Tensor]) -> dict[int, Tensor]:
        """Clamped cosines of every pair of positions of every scale, coarse to fine, its blocks as channels."""
        stacked = {}
        for scale in self.scales:
            blocks = []
            for name in (f"map.{i}" for i in self.compared[scale]):
                q, s = query.tensors[name], support[name]
                cosines = torch.bmm(q.flatten(2).transpose(1, 2), s.flatten(2)).clamp(min=0)
                blocks.append(cosines.view(q.shape[0], *q.shape[2:], *s.shape[2:]))
            stacked[scale] = torch.stack(blocks, 1)
        return stacked

    def _to_size(self, x: Tensor, like: Tensor) -> Tensor:
        (hs, ws), (hq, wq) = x.shape[4:], like.shape[2:4]
        x = resize(x.permute(0, 4, 5, 1, 2, 3).flatten(0, 2), (hq, wq))
        return x.unflatten(0, (-1, hs, ws)).permute(0, 3, 4, 5, 1, 2)


def baseline_pivot(block: Any, x: Tensor, *, activate: bool = True) -> Tensor:
    """A `PivotBlock` over (B, C, hq, wq, hs, ws) by two 2-D convolutions; group norm and ReLU if wanted."""
    b, _, hq, wq = x.shape[:4]
    over_support = block.support(x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
    kept = x[..., :: block.stride, :: block.stride]
    hs, ws = kept.shape[4:]
    over_query = block.query(kept.permute(0, 4, 5, 1, 2, 3).flatten(0, 2))
    over_support = over_support.unflatten(0, (b, hq, wq)).permute(0, 3, 1, 2, 4, 5)
    over_query = over_query.unflatten(0, (b, hs, ws)).permute(0, 3, 4, 5, 1, 2)
    summed = over_support + over_query
    return F.relu(block.norm(summed)) if activate else summed


def baseline_hsnet(method: HSNet) -> BaselineHSNet:
    """A copy of the method that computes as the baseline does."""
    baseline = BaselineHSNet(method.backbone, method.config)
    baseline.load_state_dict(method.state_dict())
    return baseline.eval()


def baseline_sccan(method: SCCAN) -> SCCAN:
    """A copy of the method whose windows attend with materialised scores."""
    baseline = SCCAN(method.backbone, dataclasses.replace(method.config, implementation="reference"))
    baseline.load_state_dict(method.state_dict())
    return baseline.eval()


def baseline_windows(query: Tensor, own: tuple[Tensor, Tensor], support: tuple[Tensor, Tensor]) -> Tensor:
    """SCCAN's attention as written: both halves' scores, one softmax, both halves' values; (B, n, heads, T, d)."""
    scores = [query * query.shape[-1] ** -0.5 @ own[0].mT, F.normalize(query, dim=-1) @ support[0].mT]
    return torch.cat(scores, -1).softmax(-1) @ torch.cat([own[1], support[1]], -2)
