"""The two collections that the scripts train and measure on, their novel classes, and what all trainings share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fewseg.training.config import TrainConfig

NOVEL_CALTECH = ("airplanes", "anchor", "binocular", "butterfly", "dolphin", "elephant", "kangaroo", "panda")
MIN_AREA = 0.02


def sources(data: Path) -> tuple[str, str]:
    """Both collections, novel classes named: of COCO every fourth, as in fold 0 of COCO-20i."""
    return f"{data / 'coco_mini'}@0/4", f"{data / 'caltech101_24'}@{','.join(NOVEL_CALTECH)}"


def training(data: Path, backbone: str, weights: Path, **changes: Any) -> TrainConfig:
    """Over a frozen backbone, maps of plain images kept; the best checkpoint by classes kept from the base ones."""
    settings: dict[str, Any] = {
        "data": sources(data),
        "weights": (0.6, 0.4),
        "min_area": MIN_AREA,
        "backbone": backbone,
        "backbone_weights": str(weights),
        "image_size": 256,
        "batch_size": 12,
        "episodes_per_epoch": 504,
        "cached_views": 1,
        "optimiser": "adamw",
        "weight_decay": 0.01,
        "schedule": "cosine",
        "warmup": 25,
        "clip_grad": 1.0,
        "loss": "ce+dice",
        "amp": True,
        "ema_decay": 0.98,
        "validation_classes": (8, 4),
        "validation_episodes": 40,
    }
    return TrainConfig(**{**settings, **changes})
