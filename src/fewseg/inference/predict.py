"""From prepared images and encoded examples to foreground probabilities: the loop that every way to segment runs.

Test-time augmentation averages over input sizes and mirrored images, so one image has several `QueryFeatures`. They
depend on the image alone: computed once, they serve any labels at any later time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption
from fewseg.core.types import QueryFeatures
from fewseg.inference.adaptation.features import image_maps
from fewseg.inference.preprocess import PreparedImage
from fewseg.inference.supports import LabelSupport
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.resize import map_size, resize

_AT_ONCE: Final = 32
"""Labels, times images, whose logits are held at the same time."""


@dataclass(frozen=True)
class EncodedImages:
    """The query features of a batch of images, on the method's device."""

    queries: tuple[tuple[QueryFeatures, ...], ...]
    """By input size: the features of the images and, with mirrored test-time augmentation, of their mirror images."""
    pixels: tuple[Tensor | None, ...] = ()
    """Each image as adapted labels need it, see `PreparedImage.pixels`."""

    def __len__(self) -> int:
        """Images in the batch."""
        return self.queries[0][0].batch

    @property
    def nbytes(self) -> int:
        """Memory of all features, in bytes."""
        pixels = sum(p.nbytes for p in self.pixels if p is not None)
        return pixels + sum(t.nbytes for views in self.queries for query in views for t in query.tensors.values())

    def split(self) -> list[EncodedImages]:
        """Every image as a batch of one, in memory of its own."""

        def one(query: QueryFeatures, i: int) -> QueryFeatures:
            return QueryFeatures(query.image_size, {k: t[i : i + 1].clone() for k, t in query.tensors.items()})

        return [
            EncodedImages(tuple(tuple(one(q, i) for q in v) for v in self.queries), self.pixels[i : i + 1])
            for i in range(len(self))
        ]

    @classmethod
    def concatenate(cls, parts: Sequence[EncodedImages]) -> EncodedImages:
        """The images of all parts, which the same segmenter encoded, as one batch."""
        if len(parts) == 1:
            return parts[0]

        def joined(queries: Sequence[QueryFeatures]) -> QueryFeatures:
            tensors = {k: torch.cat([q.tensors[k] for q in queries]) for k in queries[0].tensors}
            return QueryFeatures(queries[0].image_size, tensors)

        by_size = zip(*(part.queries for part in parts), strict=True)
        queries = tuple(tuple(joined(queries) for queries in zip(*views, strict=True)) for views in by_size)
        return cls(queries, tuple(pixels for part in parts for pixels in part.pixels))


@torch.no_grad()
def encode_images(method: FewShotMethod, images: Sequence[PreparedImage], tta_flip: bool) -> EncodedImages:
    """The query features of `images` at each of their input sizes, with `tta_flip` of their mirror images too."""
    queries = []
    for inputs in zip(*(image.inputs for image in images), strict=True):
        batch = torch.stack(inputs).to(method.device)
        views = (batch, batch.flip(-1)) if tta_flip else (batch,)
        queries.append(tuple(method.encode_query(view) for view in views))
    return EncodedImages(tuple(queries), tuple(image.pixels for image in images))


@torch.no_grad()
def predict_probabilities(method: FewShotMethod, features: EncodedImages, supports: Sequence[LabelSupport]) -> Tensor:
    """Foreground probabilities (images, labels, s, s) at the model's size `s`, on the CPU in float32.

    The mean over input sizes and mirrored images; labels share what the method can share among them.
    """
    side = method.config.image_size
    labels = max(1, _AT_ONCE // len(features))
    total = torch.zeros(len(features), len(supports), side, side)
    for index, views in enumerate(features.queries):
        for mirrored, query in enumerate(views):
            for start in range(0, len(supports), labels):
                some = slice(start, start + labels)
                logits = method.segment_labels(query, [support.sets[index] for support in supports[some]]).float()
                foreground = resize(F.softmax(logits, 2)[:, :, 1], (side, side))
                total[:, some] += (foreground.flip(-1) if mirrored else foreground).cpu()
    return total / sum(map(len, features.queries))


@torch.no_grad()
def adapt_predictions(
    method: FewShotMethod, features: EncodedImages, supports: Sequence[LabelSupport], frozen: Tensor
) -> list[Tensor]:
    """Foreground probabilities (labels, H, W) of every image, on the CPU in float32.

    Adapted labels are predicted anew at the size of the image's pixels, from the `frozen` model's probabilities
    (images, labels, s, s); others have those. Without adapted labels H and W are `s`.
    """
    if not any(support.adaptation for support in supports):
        return list(frozen)
    pixels = features.pixels or (None,) * len(features)
    return [_adapted(method, one, supports, own) for one, own in zip(pixels, frozen, strict=True)]


def predict_labels(method: FewShotMethod, features: EncodedImages, supports: Sequence[LabelSupport]) -> list[Tensor]:
    """`predict_probabilities` and `adapt_predictions`, one after the other."""
    return adapt_predictions(method, features, supports, predict_probabilities(method, features, supports))


def _adapted(method: FewShotMethod, pixels: Tensor | None, supports: Sequence[LabelSupport], frozen: Tensor) -> Tensor:
    """`adapt_predictions` of one image."""
    if pixels is None:
        raise InvalidOption("images were prepared before a label was adapted: preprocess and encode them again")
    maps = image_maps(method, pixels)
    result = resize(frozen[None], map_size(pixels))[0]
    for place, support in enumerate(supports):
        if support.adaptation is not None:
            result[place] = support.adaptation.probabilities(maps, frozen[place]).cpu()
    return result
