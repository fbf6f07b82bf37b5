"""DCAMA with a light decoder (ours): for little data and small machines.

The attention is DCAMA's (Shi et al., "Dense Cross-Query-and-Support Attention Weighted Mask Aggregation for Few-Shot
Segmentation", ECCV 2022), class-balanced; everything behind it is ours. A light decoder (`decoder.py`) weighs the
aggregated masks against similarities to the support's prototypes, and refines its logits by the query's own predicted
foreground (`refinement.py`). In use, not while the weights learn, three more steps follow: a logit offset where nothing
stands out, mask boundaries aligned with the image's edges (`boundary.py`), and a temperature by how similar the
prediction is to the examples; offset and temperature are fitted after training (`calibration.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fewseg.core.errors import InvalidOption
from fewseg.core.types import EpisodeTensors, QueryFeatures, SupportSet
from fewseg.models.backbones import FeaturePyramid, MapChoice
from fewseg.models.methods.dcama.aggregation import Decoding, MaskAggregation, batched_scales
from fewseg.models.methods.dcama_light.boundary import GUIDE, guide_from, guide_tensors, refine_boundary
from fewseg.models.methods.dcama_light.calibration import RAISES, Calibration
from fewseg.models.methods.dcama_light.config import DCAMALightConfig, check_light_config
from fewseg.models.methods.dcama_light.decoder import LightDecoder
from fewseg.models.methods.dcama_light.prototypes import (
    centred_similarity,
    decoder_inputs,
    foreground_background_sums,
    foreground_prototypes,
    object_sum,
    query_prototypes,
    unit_tokens,
)
from fewseg.models.ops.guided_filter import Guide
from fewseg.models.ops.resize import map_size, resize


class DCAMALight(MaskAggregation):
    """The method over any feature pyramid with two skip scales; see the module's docstring."""

    name: ClassVar[str] = "dcama_light"
    Config: ClassVar[type] = DCAMALightConfig
    config: DCAMALightConfig
    class_balanced = True
    transformer_maps: ClassVar[MapChoice | None] = MapChoice(parts=4, strides=(4, 8, 16, 16))  # two scales to skip from

    def __init__(self, backbone: FeaturePyramid, config: DCAMALightConfig = DCAMALightConfig()) -> None:
        super().__init__(backbone, config)
        check_light_config(config)
        if len(self.skip_channels) < 2:
            raise InvalidOption(f"the light decoder needs two skip scales, {backbone.name} has {self.skip_scales}")
        blocks = {scale: len(places) for scale, places in self.places.items()}
        self.decoder = LightDecoder(blocks, self.skip_channels, config.refinement_steps)
        widths = [self.token_width(place) for scale in sorted(self.places) for place in self.places[scale]]
        self.calibration = Calibration(widths)

    # ------------------------------------------------------------------------------------------------ encoding

    def support_from_maps(self, maps: list[Tensor], masks: Tensor) -> SupportSet:
        """Keys, resized masks and prototypes' sums of every block, each (B, n, ...)."""
        shots, image_size = (masks.shape[0], masks.shape[1]), map_size(masks)
        masks = self._cast(masks == 1)
        tensors: dict[str, Tensor] = {}
        for index, _ in self.attended:
            tokens, values = self._tokens(maps[index]), self._mask_values(maps[index], masks)
            key, value = self._keys_and_values(index, tokens, values, shots)
            # Prototypes are made of all tokens, whatever the budget leaves for attention.
            whole = self._project_support(index, tokens, shots) if self.config.support_pixel_budget else key
            tensors |= {
                f"key.{index}": key,
                f"value.{index}": value,
                f"mean.{index}": foreground_background_sums(key, value),
                f"thing.{index}": object_sum(whole, masks, map_size(maps[index])),
            }
        return SupportSet(self.name, image_size, tensors, self.support_key)

    def encode_query(self, images: Tensor) -> QueryFeatures:
        """Queries of every block, skip maps, and the guide of the boundary refinement, if that is on."""
        return self.with_guide(super().encode_query(images), images)

    def with_guide(self, query: QueryFeatures, images: Tensor) -> QueryFeatures:
        """The features of `query_from_maps` with the guide of their images (B, 3, H, W), if boundaries are refined."""
        if not self.config.boundary_refinement or self.training:  # weights learn without
            return query
        fine, work = (map_size(query.tensors[f"skip.{scale}"]) for scale in self.skip_scales[:2])
        guide = guide_tensors(images.to(self.device, torch.float32), fine, work)
        return QueryFeatures(query.image_size, {**query.tensors, **guide})

    # ------------------------------------------------------------------------------------------------ decoding

    def _decoding(
        self, query: QueryFeatures, supports: Sequence[SupportSet], masks: Sequence[dict[int, Tensor]]
    ) -> Decoding:
        """The query maps' share of the decoder, and all similarities, once for all labels."""
        share = self.decoder.query_share({s: query.tensors[f"skip.{s}"] for s in self.skip_scales})
        tokens = unit_tokens(query, self.places)
        prototypes = foreground_prototypes(supports, self.places, query.batch)
        similarity = centred_similarity(tokens, prototypes, self._base_prototypes())
        inputs = decoder_inputs(masks, tokens, supports, self.places, similarity)
        guide = guide_from(query.tensors)

        def decode(labels: slice) -> Tensor:
            count = labels.stop - labels.start
            own = share if count == 1 else [part.repeat_interleave(count, 0) for part in share]
            theirs = {s: [means[:, labels] for means in blocks] for s, blocks in prototypes.items()}
            logit = self.decode(batched_scales(inputs[labels], query.batch), own, tokens, theirs, guide)
            return resize(torch.cat([-logit, logit], 1) / 2, query.image_size)

        return decode

    def decode(
        self,
        inputs: Mapping[int, Tensor],
        share: Sequence[Tensor],
        tokens: Mapping[int, Sequence[Tensor]],
        prototypes: Mapping[int, Sequence[Tensor]],
        guide: Guide | None = None,
    ) -> Tensor:
        """Foreground logits (B * L, 1, h, w) at the finest skip scale, calibrated unless the weights learn.

        Args:
            inputs: `decoder_inputs` (B * L, ...) by scale.
            share: the decoder's `query_share`, repeated for the labels.
            tokens: the query's `unit_tokens`.
            prototypes: the labels' `foreground_prototypes`, (B, L, C) each.
            guide: of B images; boundaries are not refined without it.
        """
        coarsest = max(tokens)
        labels = prototypes[coarsest][0].shape[1]
        logit: Tensor = self.decoder(inputs, share, tokens, labels)
        if self.training:
            return logit
        logit = self.calibration.add_offset(logit)
        if guide is not None:
            logit = refine_boundary(logit, guide, labels)
        own = query_prototypes(logit, tokens[coarsest], labels)
        return self.calibration.scale(logit, self.calibration.foreground_similarity(prototypes[coarsest], own))

    def _base_prototypes(self) -> dict[int, list[Tensor]]:
        """The base prototype (C) of every block, by scale."""
        blocks = iter(self.calibration.base_prototypes())
        return {scale: [next(blocks) for _ in self.places[scale]] for scale in sorted(self.places)}

    def foreground_similarity(self, query: QueryFeatures, support: SupportSet, logits: Tensor) -> Tensor:
        """(B): similarity of the foreground that `logits` (B, 2, H, W) predict to the support's, less the base's.

        See `Calibration.foreground_similarity`.
        """
        coarsest = max(self.places)
        places = {coarsest: self.places[coarsest]}
        own = query_prototypes(logits[:, 1:] - logits[:, :1], unit_tokens(query, places)[coarsest], 1)
        prototypes = foreground_prototypes([support], places, query.batch)[coarsest]
        return self.calibration.foreground_similarity(prototypes, own)

    @property
    def last_layer(self) -> nn.Conv2d | None:
        """The convolution that gives the decoder's correction."""
        return self.decoder.correction

    # --------------------------------------------------------------------------------------------- calibration

    def reset_calibration(self) -> None:
        """Clear logit offset and temperature; the base prototype stays."""
        self.calibration.reset()

    @torch.no_grad()
    def prepare_training(self, classes: Iterable[tuple[float, Sequence[EpisodeTensors]]]) -> None:
        """Fit the base prototype; the method is left in eval mode."""
        self.eval()
        self.calibration.fit_base_prototype(
            (weight, [self._prototype(example) for example in examples]) for weight, examples in classes
        )

    def _prototype(self, example: EpisodeTensors) -> Tensor:
        """(C): the support's foreground prototypes of all blocks, one after another from the finest scale."""
        support = self.encode_support(example.images, example.masks)
        prototypes = foreground_prototypes([support], self.places)
        return torch.cat([mean[:, 0] for _, means in sorted(prototypes.items()) for mean in means], -1)[0]

    def calibrate(
        self, episodes: Iterable[EpisodeTensors], pairs: Iterable[tuple[EpisodeTensors, EpisodeTensors]]
    ) -> None:
        """Fit the calibration, see `Calibration.fit`. The method is left in eval mode."""
        self.eval()
        self.calibration.fit(episodes, pairs, raised=self._raised, predicted=self._predicted)

    @torch.no_grad()
    def _raised(self, episode: EpisodeTensors) -> tuple[Tensor, Tensor]:
        """A query's logits (1, 1, h, w) without boundary refinement, and (R, 1, h, w) after `RAISES`, with it."""
        query, support = self._encoded(episode)
        guide = guide_from(query.tensors)
        bare = {name: tensor for name, tensor in query.tensors.items() if not name.startswith(GUIDE)}
        logit = _foreground(self.segment(QueryFeatures(query.image_size, bare), support))
        raised = logit + RAISES.to(logit.device).view(-1, 1, 1, 1)
        if guide is not None:  # every raise is a label of the same image
            raised = refine_boundary(raised, guide, len(RAISES))
        return logit, raised

    @torch.no_grad()
    def _predicted(self, episode: EpisodeTensors) -> tuple[Tensor, Tensor]:
        """A query's logits (1, 1, h, w), and the `foreground_similarity` (1) of what they predict."""
        query, support = self._encoded(episode)
        logits = self.segment(query, support)
        return _foreground(logits), self.foreground_similarity(query, support, logits)

    def _encoded(self, episode: EpisodeTensors) -> tuple[QueryFeatures, SupportSet]:
        """Query, to be segmented at the finest skip scale, where logits are calibrated, and support."""
        query = self.encode_query(episode.query)
        fine = map_size(query.tensors[f"skip.{min(self.skip_scales)}"])
        return QueryFeatures(fine, query.tensors), self.encode_support(episode.images, episode.masks)


def _foreground(logits: Tensor) -> Tensor:
    """(B, 2, h, w) to (B, 1, h, w), float32: by how much foreground is ahead of background."""
    return (logits[:, 1:] - logits[:, :1]).float()
