"""Short names of backbones: the papers' and the foundation models'; any other name is timm's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

PAPER_BACKBONES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "resnet50": ("resnet50.a1h_in1k", {}),
    "resnet101": ("resnet101.a1h_in1k", {}),
    "swin_b": (
        "swin_base_patch4_window12_384.ms_in22k_ft_in1k",
        {"strict_img_size": False},  # windows as at 384 pixels, whatever the input size
    ),
    "resnet50_deep_dilated": ("resnet50s.gluon_in1k", {"output_stride": 8}),
    "resnet101_deep_dilated": ("resnet101s.gluon_in1k", {"output_stride": 8}),
    "vgg16_convolutions": ("vgg16.tv_in1k", {}),
}
"""The papers' names: timm model and weights, and constructor options."""


def _foundation() -> Iterator[tuple[str, str]]:
    for size in ("small", "base", "large", "giant"):
        yield f"dinov2-{size}", f"vit_{size}_patch14_dinov2.lvd142m"
        yield f"dinov2-{size}-reg", f"vit_{size}_patch14_reg4_dinov2.lvd142m"
    for size in ("small", "small_plus", "base", "large", "huge_plus", "7b"):
        yield f"dinov3-{size.replace('_', '-')}", f"vit_{size}_patch16_dinov3.lvd1689m"
    for size in ("tiny", "small", "base", "large"):
        yield f"dinov3-convnext-{size}", f"convnext_{size}.dinov3_lvd1689m"
    for size in ("base", "large", "huge"):
        yield f"sam-{size}", f"samvit_{size}_patch16.sa1b"
    for size, side in (("tiny", 896), ("small", 896), ("base_plus", 896), ("large", 1024)):
        yield f"sam2-{size.replace('_', '-')}", f"sam2_hiera_{size}.fb_r{side}_2pt1"


FOUNDATION_BACKBONES: Final[dict[str, str]] = dict(_foundation())
"""DINOv2 (`-reg`: with four registers), DINOv3, the image encoders of SAM and SAM 2.1, to timm model and weights."""

NAMED_BACKBONES: Final[dict[str, tuple[str, dict[str, Any]]]] = PAPER_BACKBONES | {
    name: (timm_name, {}) for name, timm_name in FOUNDATION_BACKBONES.items()
}
"""Every short name: timm model and weights, and constructor options."""
