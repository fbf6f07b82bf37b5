"""Models to benchmark, and their input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fewseg.core.errors import unknown
from fewseg.models.checkpoints import load_method
from fewseg.models.methods import FewShotMethod, create_method

FOREGROUND: Final = (0.5, 2 / 3)
"""Height and width of a support's foreground, as shares of the image: a third of it."""


@dataclass(frozen=True)
class Model:
    """A method over a backbone at an input size; weights are random but for the embedded model's."""

    method: str
    backbone: str
    size: int
    checkpoint: str | None = None
    about: str = ""


MODELS: Final[dict[str, Model]] = {
    "dcama-resnet50": Model("dcama", "resnet50", 384, about="DCAMA, ResNet-50"),
    "dcama-resnet101": Model("dcama", "resnet101", 384, about="DCAMA, ResNet-101"),
    "dcama-swin_b": Model("dcama", "swin_b", 384, about="DCAMA, Swin-B"),
    "embedded": Model("dcama_light", "tiny", 384, checkpoint="default", about="embedded default"),
    "sccan-resnet50": Model("sccan", "resnet50", 473, about="SCCAN, ResNet-50"),
    "hsnet-resnet50": Model("hsnet", "resnet50", 400, about="HSNet, ResNet-50"),
}
"""Every model by name; the papers' at the papers' input sizes."""

QUICK: Final = Model("dcama", "tiny", 128, about="DCAMA, small backbone")
"""What can be measured in a moment: for trials and tests."""

QUICK_NAME: Final = "dcama-tiny"


def bench_model(name: str) -> Model:
    """The model of that name; raises `InvalidOption` with the nearest known names."""
    known = {**MODELS, QUICK_NAME: QUICK}
    if name not in known:
        raise unknown("model", name, known)
    return known[name]


def build(model: Model, size: int | None = None) -> FewShotMethod:
    """The method on the CPU in float32, the same weights in every process; `size` instead of the model's own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if model.checkpoint is None:
            return create_method(model.method, backbone=model.backbone, image_size=size or model.size)
        method = load_method(model.checkpoint)
    if size is not None and size != method.config.image_size:
        from dataclasses import replace

        method.config = replace(method.config, image_size=size)
    return method


def noise(size: int, shots: int, batch: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, 3, s, s), supports (B, n, 3, s, s) and masks (B, n, s, s) of noise, on the CPU."""
    rng = torch.Generator().manual_seed(0)
    query = torch.randn(batch, 3, size, size, generator=rng)
    images = torch.randn(batch, shots, 3, size, size, generator=rng)
    masks = torch.zeros(batch, shots, size, size)
    height, width = (round(size * share) for share in FOREGROUND)
    top, left = (size - height) // 2, (size - width) // 2
    masks[..., top : top + height, left : left + width] = 1
    return query, images, masks
