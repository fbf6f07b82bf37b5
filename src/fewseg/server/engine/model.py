"""The model as the engine uses it: examples and images are encoded apart and kept, then put together.

A correction changes one example: only that is encoded again, and images whose features are still in memory need
neither be read nor go through the backbone.
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

from fewseg.core.types import QueryFeatures
from fewseg.inference.interactive import region_features
from fewseg.inference.preprocess import PreparedImage
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.supports import LabelSupport
from fewseg.models.backbones.capture import maps_seen
from fewseg.models.ops.resize import resize
from fewseg.server.model import ServedModel

TOKENS: Final = 4
"""Tokens along each side of an image, for suggestions."""


@dataclass(frozen=True)
class ImageFeatures:
    """All that is computed of an image alone."""

    queries: tuple[QueryFeatures, ...]
    """For every input size, and its mirrored image where the segmenter averages with that; batch 1."""
    regions: Tensor
    """(c, h, w) float16 on the CPU: what tells neighbouring regions apart; colours where the model has no maps."""
    tokens: Tensor
    """(`TOKENS` squared, c) float16 on the CPU: what the image shows, in few numbers."""

    @property
    def nbytes(self) -> int:
        own = sum(t.nbytes for query in self.queries for t in query.tensors.values())
        return own + self.regions.nbytes + self.tokens.nbytes


class EngineModel:
    """Belongs to one thread, except `prepare`."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter = segmenter
        self._served = ServedModel(segmenter)
        method = segmenter.method
        parts = [segmenter.model_fingerprint, str(method.dtype), segmenter.input_sizes, segmenter.flips]
        self.fingerprint = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        """Of all that decides the result beside the examples."""
        self.batch = 1 if method.device.type == "cpu" else 8
        self.side = int(method.config.image_size)

    def prepare(self, path: Path) -> PreparedImage:
        """Read an image; raises `InvalidImage`."""
        return self.segmenter.prepare(path)

    def shot(self, path: Path, mask: NDArray[np.bool_]) -> LabelSupport:
        """One encoded example; raises `InvalidImage` and `InvalidMask`."""
        return self._served.encode("label", path, mask)

    @torch.no_grad()
    def features(self, images: Sequence[PreparedImage]) -> list[ImageFeatures]:
        """What each image is in itself, computed together."""
        method, made = self.segmenter.method, []
        with maps_seen(method.backbone) as maps:
            for index in range(len(self.segmenter.input_sizes)):
                batch = torch.stack([p.inputs[index] for p in images]).to(method.device)
                for mirrored in (False, True) if self.segmenter.flips else (False,):
                    made.append(method.encode_query(batch.flip(-1) if mirrored else batch))
        inputs = torch.stack([p.inputs[0] for p in images])
        regions, tokens = region_features(maps, inputs), _tokens(maps, inputs)
        return [
            ImageFeatures(
                tuple(
                    QueryFeatures(q.image_size, {k: t[i : i + 1].clone() for k, t in q.tensors.items()}) for q in made
                ),
                regions[i],
                tokens[i],
            )
            for i in range(len(images))
        ]

    @torch.no_grad()
    def coarse(self, features: Sequence[ImageFeatures], support: LabelSupport) -> NDArray[np.uint8]:
        """Foreground probabilities (images, s, s) in 256 steps.

        v stands for v / 255, and 128 and above is what reaches one half.
        """
        method, sizes = self.segmenter.method, self.segmenter.input_sizes
        views = 2 if self.segmenter.flips else 1
        total = torch.zeros(len(features), self.side, self.side, device=method.device)
        for place in range(len(sizes) * views):
            parts = [f.queries[place] for f in features]
            query = parts[0] if len(parts) == 1 else _joined(parts)
            logits = method.segment(query, support.sets[place // views]).float()
            foreground = resize(F.softmax(logits, 1)[:, 1:], (self.side, self.side))[:, 0]
            total += foreground.flip(-1) if place % views else foreground
        steps = (total / (len(sizes) * views) * 256).floor().clamp(0, 255)
        values: NDArray[np.uint8] = steps.to(torch.uint8).cpu().numpy()
        return values


def probabilities(coarse: NDArray[np.uint8]) -> Tensor:
    """The probabilities that `EngineModel.coarse` gave in steps."""
    return torch.from_numpy(coarse).float() / 255


def _joined(parts: Sequence[QueryFeatures]) -> QueryFeatures:
    tensors = {k: torch.cat([p.tensors[k] for p in parts]) for k in parts[0].tensors}
    return QueryFeatures(parts[0].image_size, tensors)


def _tokens(maps: Sequence[Tensor], inputs: Tensor) -> Tensor:
    """The coarsest map (or the colours), averaged over `TOKENS` x `TOKENS` parts, (B, `TOKENS` squared, c)."""
    coarsest = maps[-1] if maps and maps[-1].ndim == 4 else inputs
    return F.adaptive_avg_pool2d(coarsest.float(), TOKENS).flatten(2).transpose(1, 2).half().cpu()
