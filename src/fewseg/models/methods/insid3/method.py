"""INSID3: training-free segmentation by matching the last tokens of a frozen transformer.

Claudia Cuttano, Gabriele Trivigno, Christoph Reich, Daniel Cremers, Carlo Masone, Stefan Roth: "INSID3: Training-Free
In-Context Segmentation with DINOv3", CVPR 2026 (arXiv 2603.28480). Where paper and released code differ, this is the
code; docs/methods/insid3.md lists the differences. Ours: logits that say how sure a region is beside the release's hard
mask, shots with an empty mask left out, images of any size, and no refinement by a conditional random field.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.insid3.config import INSID3Config
from fewseg.models.methods.insid3.matching import find_candidates, score_clusters
from fewseg.models.methods.insid3.tokens import TokenMethod
from fewseg.models.ops.clusters import cosine_clusters, mean_by_cluster
from fewseg.models.ops.patches import decide_like, mask_to_patches, patches_to_pixels
from fewseg.models.ops.resize import map_size

_LEAST: Final = 0.05
"""Sureness of a cluster whose score is the threshold; the most is 1 more."""


class INSID3(TokenMethod):
    """See the module's docstring."""

    name: ClassVar[str] = "insid3"
    Config: ClassVar[type] = INSID3Config
    config: INSID3Config

    def __init__(self, backbone: FeaturePyramid, config: INSID3Config = INSID3Config()) -> None:
        super().__init__(backbone, config)

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """Debiased tokens (B, n, C, h, w), the mask of each shot's patches (B, n, h, w), prototypes (B, n, C)."""
        tokens = self.debiased(self.unit_tokens(maps), map_size(masks))
        mask = mask_to_patches((masks == 1).flatten(0, 1).to(tokens.device), map_size(tokens)).to(tokens.dtype)
        prototype = (tokens * mask[:, None]).sum((2, 3)) / mask.sum((1, 2)).clamp(min=1)[:, None]
        tensors = {"debiased": tokens, "mask": mask, "prototype": prototype}
        shots = {name: value.unflatten(0, masks.shape[:2]).to(self.dtype) for name, value in tensors.items()}
        return SupportSet(self.name, map_size(masks), shots, self.support_key)

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        """Unit tokens, debiased tokens (B, C, h, w), and the clusters (B, h, w) of the former."""
        tokens = self.unit_tokens(maps)
        labels = [cosine_clusters(item.flatten(1).T.contiguous(), self.config.tau) for item in tokens]
        tensors = {
            "tokens": tokens,
            "debiased": self.debiased(tokens, image_size),
            "labels": torch.stack(labels).view(len(tokens), *map_size(tokens)),
        }
        return QueryFeatures(image_size, tensors)

    def _foreground(self, query: QueryFeatures, support: SupportSet, item: int) -> Tensor:
        inside, sureness = self.decide(query, support, item)
        share = patches_to_pixels(inside, query.image_size)
        logits = 2 * (share - 0.5) * (_LEAST + patches_to_pixels(sureness, query.image_size))
        return decide_like(logits, share > 0.5)

    def decide(self, query: QueryFeatures, support: SupportSet, item: int) -> tuple[Tensor, Tensor]:
        """One query's foreground, (h, w) of 0 and 1, and how sure each token's cluster is, (h, w) in [0, 1].

        Sureness is the distance of a cluster's score from the threshold, as a share of the largest that there is on
        its side. Without candidates there is no score: background is the surer the less a cluster resembles the
        prototype.
        """
        tokens, debiased = (query.tensors[name][item].flatten(1).T.contiguous() for name in ("tokens", "debiased"))
        labels = query.tensors["labels"][item].flatten()
        shape = map_size(query.tensors["tokens"])
        supports, masks, prototypes = self._shots(support, item if support.batch > 1 else 0)
        if not len(masks):
            return tokens.new_zeros(shape), tokens.new_ones(shape)
        prototype = F.normalize(prototypes.mean(0), dim=0, eps=1e-12)
        similarity = debiased @ prototype
        candidates = find_candidates(similarity, debiased, supports, masks)
        if not candidates.any():
            cross = mean_by_cluster(similarity, labels)
            return tokens.new_zeros(shape), ((1 - cross) / 2)[labels].view(shape)
        score = score_clusters(tokens, debiased, labels, candidates, prototype).score
        threshold = self.config.merge_threshold
        inside = score > threshold
        most = torch.where(inside, 1 - threshold, max(threshold, 1e-3))
        sureness = ((score - threshold).abs() / most).clamp(max=1)
        return inside.to(tokens.dtype)[labels].view(shape), sureness[labels].view(shape)

    def _shots(self, support: SupportSet, item: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (n, N, C), masks (n, N) and prototypes (n, C) of the shots whose mask is not empty."""
        masks = support.tensors["mask"][item].flatten(1) > 0.5
        shown = masks.any(1)
        tokens = support.tensors["debiased"][item][shown].to(self.work_dtype).flatten(2).transpose(1, 2)
        return tokens, masks[shown], support.tensors["prototype"][item][shown].to(self.work_dtype)
