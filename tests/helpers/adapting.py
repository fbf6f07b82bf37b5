"""Small methods and images for tests of adaptation: a rough disc among smooth ones, which colour alone cannot tell."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fewseg.inference.segmenter import Segmenter
from fewseg.models.methods import FewShotMethod, create_method

BACKBONE = {
    "stem": 4, "thin": 4, "widths": (4, 4, 8, 8), "depths": (1,) * 4, "strides": (2,) * 4, "expansions": (2,) * 4,
}  # fmt: skip
OPTIONS: dict[str, dict[str, object]] = {
    "dcama": {"heads": 2, "attention_scales": (16, 32)},
    "dcama_light": {},
    "sccan": {"width": 16, "blocks": 1, "heads": 2, "window": 4},
    "hsnet": {"scales": (32,)},
    "prototype": {},
}


def small_method(name: str = "prototype", image_size: int = 64) -> FewShotMethod:
    """A method with random weights, always the same, over a backbone of a few thousand."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = OPTIONS[name]
        return create_method(name, backbone="tiny", image_size=image_size, backbone_options=BACKBONE, **options).eval()


def disc(number: int, size: tuple[int, int] = (96, 80)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A (height, width, 3) image of `size` (width, height) with the mask of the rough disc in it."""
    rng = np.random.default_rng(number)
    width, height = size
    y, x = np.mgrid[:height, :width]
    radius = 0.16 * min(size)
    places = rng.permutation([(fx, fy) for fx in (0.25, 0.5, 0.75) for fy in (0.3, 0.7)])[:3]
    discs = [(x - fx * width) ** 2 + (y - fy * height) ** 2 <= radius**2 for fx, fy in places]
    image = rng.normal(90 + 10 * rng.random(), 8, (height, width, 3))
    for place, inside in enumerate(discs):
        image[inside] = 170
        if place == 0:
            image[inside] += rng.normal(0, 45, (int(inside.sum()), 3))
    return image.clip(0, 255).astype(np.uint8), discs[0].astype(np.uint8)


def taught(
    shots: int = 3, *, label: str = "rough", method: FewShotMethod | None = None, **options: object
) -> Segmenter:
    """A segmenter that was taught with the first so many discs."""
    segmenter = Segmenter(method or small_method(), device="cpu", precision="float32", **options)  # type: ignore[arg-type]
    teach(segmenter, range(shots), label)
    return segmenter


def teach(segmenter: Segmenter, numbers: range, label: str = "rough") -> None:
    """Teach the discs with these numbers."""
    for number in numbers:
        segmenter.teach(label, *disc(number), value=1)
