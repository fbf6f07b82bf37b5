"""A few-shot method without learning, and images that it segments right: makes results predictable."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fewseg.core.types import QueryFeatures, SupportSet
from fewseg.models.backbones import BackboneSpec, FeaturePyramid
from fewseg.models.methods.base import FewShotMethod, check_support


@dataclass(frozen=True)
class ColourConfig:
    """Choices of the colour method."""

    image_size: int = 64


class ColourMethod(FewShotMethod):
    """Foreground is what is nearer to a shot's mean foreground colour than to its mean background colour."""

    name: ClassVar[str] = "colour"
    Config: ClassVar[type] = ColourConfig

    def __init__(self, image_size: int = 64, sharpness: float = 8.0) -> None:
        super().__init__()
        self.config = ColourConfig(image_size)
        self.backbone = FeaturePyramid(BackboneSpec("pixels"))  # a name only; nothing goes through it
        self.sharpness = nn.Parameter(torch.tensor(sharpness), requires_grad=False)
        self.queries_encoded = 0

    def encode_support(self, images: Tensor, masks: Tensor) -> SupportSet:
        check_support(images, masks)
        images, inside = self._cast(images), self._cast(masks == 1).unsqueeze(2)
        tensors = {}
        for name, weight in (("foreground", inside), ("background", 1 - inside)):
            tensors[name] = (images * weight).sum((-1, -2)) / weight.sum((-1, -2)).clamp(min=1)
        return SupportSet(self.name, (int(images.shape[-2]), int(images.shape[-1])), tensors, self.support_key)

    def encode_query(self, images: Tensor) -> QueryFeatures:
        self.queries_encoded += 1
        return QueryFeatures((int(images.shape[-2]), int(images.shape[-1])), {"pixels": self._cast(images)})

    def _segment(self, query: QueryFeatures, support: SupportSet) -> Tensor:
        pixels = query.tensors["pixels"]

        def distance(name: str) -> Tensor:
            colours = support.tensors[name].expand(len(pixels), -1, -1)
            return torch.stack([(pixels - c[..., None, None]).square().sum(1) for c in colours.unbind(1)]).amin(0)

        return torch.stack([-distance("background"), -distance("foreground")], 1) * self.sharpness


COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}


def blob(*names: str, size: tuple[int, int] = (96, 64), place: float = 0.5) -> tuple[Image.Image, np.ndarray]:
    """A grey (width, height) image with a disc of each named colour side by side, and the first one's mask."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.full((height, width, 3), 128, np.uint8)
    masks = []
    for i, name in enumerate(names):
        centre = (i + place) * width / len(names)
        inside = (x - centre) ** 2 + (y - height / 2) ** 2 <= (min(width / len(names), height) * 0.3) ** 2
        pixels[inside] = COLOURS[name]
        masks.append(inside)
    return Image.fromarray(pixels), masks[0].astype(np.uint8) * 255


def write_support(folder: Path, *names: str, shots: int = 2) -> Path:
    """A support folder that teaches the named colours."""
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for shot in range(shots):
            image, mask = blob(name, place=0.4 + 0.1 * shot)
            image.save(folder / name / f"{shot}.jpg", quality=95)
            Image.fromarray(mask).save(folder / name / f"{shot}.png")
    return folder


def iou(found: np.ndarray, truth: np.ndarray) -> float:
    found, truth = found > 0, truth > 0
    return float((found & truth).sum() / (found | truth).sum())
