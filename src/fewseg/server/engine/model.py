"""The engine's model: examples and images are encoded separately, cached, and then combined.

A correction changes one example: only that is encoded again, and images whose features are in memory are neither read
again nor passed through the backbone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from fewseg.inference.adaptation.examples import working_pixels
from fewseg.inference.adaptation.features import ImageMaps, image_maps
from fewseg.inference.predict import EncodedImages, predict_probabilities
from fewseg.inference.preprocess import PreparedImage, open_for
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.self_support import SelfSupport
from fewseg.inference.supports import LabelSupport
from fewseg.models.backbones.capture import maps_seen

TOKENS: Final = 4
"""Tokens along each side of an image, for the suggestions."""


@dataclass(frozen=True)
class ImageFeatures:
    """Everything that is computed from an image alone."""

    encoded: EncodedImages
    """The query features of the image, batch 1."""
    tokens: Tensor
    """(`TOKENS` squared, c) float16 on the CPU: a descriptor of the image's content."""

    @property
    def nbytes(self) -> int:
        return self.encoded.nbytes + self.tokens.nbytes


class EngineModel:
    """Encodes images and examples, and predicts masks; used by one thread, except `preprocess`."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        parts = [segmenter.model_fingerprint, str(segmenter.method.dtype), segmenter.input_sizes, segmenter.tta_flip]
        self.fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        """Hash of everything that results depend on except images and examples."""
        self.batch = segmenter.default_batch_size

    def preprocess(self, path: Path) -> PreparedImage:
        """Read an image; raises `InvalidImage`."""
        return self.segmenter.preprocess(path)

    def encode_example(self, path: Path, mask: NDArray[np.bool_]) -> LabelSupport:
        """One encoded example; raises `InvalidImage` and `InvalidMask`."""
        return self.segmenter.encode_example(path, mask)

    @torch.no_grad()
    def features(self, images: Sequence[PreparedImage]) -> list[ImageFeatures]:
        """The features of each image, computed together."""
        with maps_seen(self.segmenter.method.backbone) as maps:
            encoded = self.segmenter.encode(images)
        inputs = torch.stack([image.inputs[0] for image in images])
        return [ImageFeatures(*parts) for parts in zip(encoded.split(), _tokens(maps, inputs), strict=True)]

    def self_support(self, path: Path) -> SelfSupport:
        """An image for prompts; raises `InvalidImage`."""
        return SelfSupport(self.segmenter.method, open_for(path, self.segmenter.input_sizes))

    def maps(self, path: Path) -> ImageMaps:
        """What adapted labels describe an image's pixels by; raises `InvalidImage`."""
        image = open_for(path, self.segmenter.input_sizes)
        return image_maps(self.segmenter.method, working_pixels(image.image))

    def coarse(
        self, features: Sequence[ImageFeatures], support: LabelSupport, maps: Sequence[ImageMaps] = ()
    ) -> list[NDArray[np.uint8]]:
        """Foreground probabilities of each image, uint8: v is the probability v / 255, at least 1/2 from 128 on.

        They are (s, s) at the model's size; where the label is adapted, at the size of the images' `maps`, which it
        needs.
        """
        encoded = EncodedImages.concatenate([f.encoded for f in features])
        values = list(predict_probabilities(self.segmenter.method, encoded, [support])[:, 0])
        if support.adaptation is not None:
            adapted = support.adaptation
            values = [adapted.probabilities(own, frozen).cpu() for own, frozen in zip(maps, values, strict=True)]
        return [(one * 256).floor().clamp(0, 255).to(torch.uint8).numpy() for one in values]


def probabilities(coarse: NDArray[np.uint8]) -> Tensor:
    """The probabilities, float32, of a map from `EngineModel.coarse`."""
    return torch.from_numpy(coarse).float() / 255


def _tokens(maps: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """The coarsest map (or the colours), averaged over `TOKENS` x `TOKENS` cells: (B, `TOKENS` squared, c)."""
    coarsest = maps[-1] if maps and maps[-1].ndim == 4 else inputs
    return F.adaptive_avg_pool2d(coarsest.float(), TOKENS).flatten(2).transpose(1, 2).half().cpu()
