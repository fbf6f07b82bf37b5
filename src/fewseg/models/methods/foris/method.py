"""FoRIS: training-free segmentation by a score of every token, refined by votes and clusters.

Hu, Yin, Dou, Zhang, Wang, Hu, Hu, Wang: "FoRIS: Progressive Foreground Refinement for Training-Free In-Context
Segmentation", arXiv 2609.03384, 2026, with the weights of the released code, which the paper's equations leave out.
Backbone, positional subspace, votes and linkage are INSID3's. The gate of the first stage is left out: it multiplies
tokens by positive factors that the clustering after it cancels. Ours: of several shots the positional part is decided
by all, so that their order does not matter; shots with an empty mask are left out; logits are less sure where no shot
votes for what is found. docs/methods/foris.md has the whole list.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.images.transforms import IMAGENET_MEAN, IMAGENET_STD
from fewseg.models.backbones import FeaturePyramid
from fewseg.models.methods.foris import scores
from fewseg.models.methods.foris.clusters import LazyClusters
from fewseg.models.methods.foris.config import FoRISConfig, check_foris_config
from fewseg.models.methods.foris.support import ClassModel, alignment, class_model
from fewseg.models.methods.insid3.matching import count_votes, majority
from fewseg.models.methods.insid3.tokens import TokenMethod
from fewseg.models.ops.clusters import cosine_clusters
from fewseg.models.ops.patches import decide_like, first_pixels, mask_to_patches, patches_to_pixels
from fewseg.models.ops.resize import map_size

_LEAST: Final = 0.1
"""Sureness of a mask that no shot votes for; where all shots vote for all of it, it is 1."""


class FoRIS(TokenMethod):
    """See the module's docstring."""

    name: ClassVar[str] = "foris"
    Config: ClassVar[type] = FoRISConfig
    config: FoRISConfig

    def __init__(self, backbone: FeaturePyramid, config: FoRISConfig = FoRISConfig()) -> None:
        check_foris_config(config)
        super().__init__(backbone, config)
        self.clusters = LazyClusters()

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """Unit tokens (B, n, C, h, w), with their positional part, and two masks of patches (B, n, h, w).

        `mask` is INSID3's; `corner`, that of the patches' first pixels, decides on the positional part only.
        """
        tokens = self.unit_tokens(maps)
        foreground = (masks == 1).flatten(0, 1).to(tokens.device)
        tensors = {
            "tokens": tokens,
            "mask": mask_to_patches(foreground, map_size(tokens)),
            "corner": first_pixels(foreground, map_size(tokens)),
        }
        shots = {name: value.unflatten(0, masks.shape[:2]).to(self.dtype) for name, value in tensors.items()}
        return SupportSet(self.name, map_size(masks), shots, self.support_key)

    def encode_query(self, images: Tensor) -> QueryFeatures:
        """Unit tokens (B, C, h, w), and the patches' colours (B, 3, h, w) in [0, 1]."""
        query = super().encode_query(images)
        size = map_size(query.tensors["tokens"])
        pixels = images.to(self.device, self.work_dtype)
        mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        colours = (F.interpolate(pixels, size, mode="bilinear", align_corners=False) * std + mean).clamp(0, 1)
        return QueryFeatures(query.image_size, {**query.tensors, "colours": colours})

    def query_from_maps(self, maps: list[Tensor], image_size: tuple[int, int]) -> QueryFeatures:
        """Unit tokens, and black for the colours, which maps do not tell."""
        tokens = self.unit_tokens(maps)
        return QueryFeatures(image_size, {"tokens": tokens, "colours": torch.zeros_like(tokens[:, :3])})

    def _foreground(self, query: QueryFeatures, support: SupportSet, item: int) -> Tensor:
        found = self.decide(query, support, item)
        if found is None:
            return torch.full(query.image_size, -0.5, device=self.device)
        values, votes = found
        share = patches_to_pixels(values, query.image_size)
        inside = values > 0.5
        sureness = votes[inside].mean() if inside.any() else votes.new_zeros(())
        return decide_like((share - 0.5) * (_LEAST + (1 - _LEAST) * sureness), share > 0.5)

    def decide(self, query: QueryFeatures, support: SupportSet, item: int) -> tuple[Tensor, Tensor] | None:
        """One query's final score, scaled to [0, 1], and the share of shots that vote for each token, (h, w) each.

        Foreground is where the score, as pixels, is above one half. None without any shot whose mask is not empty.
        """
        place = item if support.batch > 1 else 0
        masks = support.tensors["mask"][place].flatten(1) > 0.5
        if not masks.any():
            return None
        debias = self._needs_debiasing(query, support, item, place)
        tokens = self._query_tokens(query, item, debias)
        supports, model = self._class_model(support, place, debias)
        shown = masks[masks.any(1)]
        counts = count_votes(tokens, supports, shown)
        votes = counts.to(tokens.dtype) / len(shown)
        shape = map_size(query.tensors["tokens"])
        candidates = scores.with_even_places(counts >= majority(len(shown)), shape)
        joint, plain = self._labels(query, item, debias, tokens)
        evidence = scores.token_evidence(tokens, model)
        prior = scores.cluster_prior(tokens, joint, candidates, model.mean)
        total = evidence.score + scores.VOTE * (votes - 0.5) + scores.PRIOR * (prior - 0.5)
        total = total - scores.disagreement_penalty(evidence, votes, prior)
        total = total + scores.cluster_reweighting(evidence, plain)
        return scores.scaled(total).view(shape), votes.view(shape)

    def _needs_debiasing(self, query: QueryFeatures, support: SupportSet, item: int, place: int) -> bool:
        """Whether this episode's tokens lose their positional part: the support's object is unlike the query."""
        tokens = support.tensors["tokens"][place].to(self.work_dtype).flatten(2).transpose(1, 2)
        corners = support.tensors["corner"][place].flatten(1) > 0.5
        found = alignment(tokens, corners, query.tensors["tokens"][item].flatten(1).T)
        return found is None or found < self.config.debias_below

    def _query_tokens(self, query: QueryFeatures, item: int, debias: bool) -> Tensor:
        """(N, C): one query's tokens, with or without their positional part."""
        tokens = query.tensors["tokens"][item : item + 1]
        used = self.debiased(tokens, query.image_size) if debias else tokens
        return used[0].flatten(1).T.contiguous()

    def _labels(self, query: QueryFeatures, item: int, debias: bool, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(N,) each: clusters by token, colour and place, and clusters by token alone."""
        colours, tau = query.tensors["colours"][item], self.config.tau
        weights = self.config.colour_weight, self.config.position_weight

        def joint() -> Tensor:
            return cosine_clusters(scores.joint_tokens(tokens, colours, *weights), tau)

        return (
            self.clusters.get(query, (item, debias, "joint"), joint),
            self.clusters.get(query, (item, debias, "plain"), lambda: cosine_clusters(tokens, tau)),
        )

    def _class_model(self, support: SupportSet, place: int, debias: bool) -> tuple[Tensor, ClassModel]:
        """Tokens (n, N, C) of the shots whose mask is not empty, and the model of them; kept with the support set."""
        names = [f"{field}.{place}.{debias}" for field in ("tokens", *ClassModel._fields)]
        if names[0] not in support.shared:
            masks = support.tensors["mask"][place].flatten(1) > 0.5
            shown = masks.any(1)
            tokens = support.tensors["tokens"][place][shown].to(self.work_dtype)
            tokens = self.debiased(tokens, support.image_size) if debias else tokens
            flat = tokens.flatten(2).transpose(1, 2).contiguous()
            made = (flat, *class_model(flat, masks[shown], self.config.tau))
            support.shared.update(zip(names, made, strict=True))
        tokens, *model = (support.shared[name] for name in names)
        return tokens, ClassModel(*model)
