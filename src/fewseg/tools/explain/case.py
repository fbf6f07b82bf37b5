"""One query with its support, as images, and what a method computes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.core.types import Episode, QueryFeatures, SupportSet
from fewseg.data.datasets.base import Dataset
from fewseg.images import ImageLike, open_image
from fewseg.images.masks import read_mask
from fewseg.images.transforms import square_image, square_mask
from fewseg.models.backbones.capture import maps_seen
from fewseg.models.methods import FewShotMethod
from fewseg.models.methods.dcama.aggregation import MaskAggregation

Mask = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """One query and its support: upright RGB images, masks (H, W) of 0, 1 and 255 at their size."""

    label: str
    query: Image.Image
    support: tuple[tuple[Image.Image, Mask], ...]
    truth: Mask | None = None
    """The query's mask, where it is known."""

    @classmethod
    def from_images(
        cls,
        query: ImageLike,
        support: Sequence[tuple[ImageLike, ImageLike]],
        *,
        truth: ImageLike | None = None,
        label: str = "",
    ) -> Case:
        """Read images and masks; raises `InvalidImage`, `InvalidMask` naming the file, or `InvalidSupport`."""
        if not support:
            raise InvalidSupport("no support images: give at least one image with its mask")
        pairs = tuple(_pair(image, mask) for image, mask in support)
        if truth is None:
            return cls(label, open_image(query).image, pairs)
        image, mask = _pair(query, truth)
        return cls(label, image, pairs, mask)

    @classmethod
    def from_episode(cls, dataset: Dataset, episode: Episode) -> Case:
        """The images and masks that an episode names."""
        pairs = tuple((dataset.image(name), dataset.mask(name, episode.class_id)) for name in episode.support)
        truth = dataset.mask(episode.query, episode.class_id)
        return cls(dataset.classes[episode.class_id], dataset.image(episode.query), pairs, truth)


def _pair(image: ImageLike, mask: ImageLike) -> tuple[Image.Image, Mask]:
    opened = open_image(image)
    return opened.image, read_mask(mask, size=opened.size, orientation=opened.orientation, image=opened.name)


@dataclass(frozen=True)
class Explained:
    """A case with what a method computed of it, batch 1."""

    method: FewShotMethod
    case: Case
    maps: list[Tensor]
    """The backbone's maps of the query, (1, C, h, w) each."""
    query: QueryFeatures
    support: SupportSet
    probability: Tensor
    """(s, s) foreground probability at the model's size, float32 on the CPU."""


@torch.no_grad()
def explain_case(method: FewShotMethod, case: Case) -> Explained:
    """Encode and segment a case, keeping what the explanations look at."""
    size = method.config.image_size
    images = torch.stack([square_image(image, size) for image, _ in case.support])[None]
    masks = torch.stack([(square_mask(mask, size) == 1).float() for _, mask in case.support])[None]
    pixels = square_image(case.query, size)[None].to(method.device, method.dtype)
    with maps_seen(method.backbone) as maps:
        query = method.encode_query(pixels)
    support = method.encode_support(images, masks)
    logits = method.segment(query, support).float().cpu()
    return Explained(method, case, maps, query, support, F.softmax(logits, 1)[0, 1])


def aggregating(method: FewShotMethod, what: str) -> MaskAggregation:
    """The method, if it aggregates masks by attention; raises `InvalidOption` for others."""
    if not isinstance(method, MaskAggregation):
        raise InvalidOption(
            f"{method.name} does not aggregate masks by attention, so it has no {what}: choose a dcama checkpoint, "
            "or --figures features"
        )
    return method
