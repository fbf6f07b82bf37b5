"""Options that several commands share: each is written, and explained, here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Parameter

FLAT: Final = Parameter(name="*")
"""Annotates a field whose own fields are options of the command: `settings: Annotated[TrainConfig, FLAT]`."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Logging."""

    verbose: Annotated[bool, Parameter(alias="-v")] = False
    """Log what is done."""


@dataclass(frozen=True, kw_only=True)
class NamedModelOptions:
    """The model."""

    model: str = "default"
    """The model: `default` (comes with fewseg), a name that `fewseg models` lists, a file, a folder with
    model.safetensors, a hub id user/name, or a paper's release as METHOD:BACKBONE:FILE, e.g. dcama:resnet50:FILE."""


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Device."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps ..."""


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions(DeviceOptions):
    """Device and precision."""

    precision: str = "auto"
    """auto, float32, bfloat16 or float16. auto is bfloat16 where it is faster on the device and the model is no less
    accurate with it, else float32."""


@dataclass(frozen=True, kw_only=True)
class ModelOptions(PrecisionOptions, NamedModelOptions):
    """The model, and how it is run."""

    tta_flip: bool = False
    """Average with the mirrored image: slower, a little better."""
    tta_scales: tuple[float, ...] = (1.0,)
    """Average over input sizes, as factors of the model's own, e.g. 1 1.25."""
    presence_threshold: float | None = None
    """Score from which a label counts as present; the model's own if not given."""
    range: tuple[float, float] | None = None
    """The values LOW HIGH of images with more than 8 bits that are black and white, e.g. 0 4095; if not given, each
    image's largest value says how many bits it has."""


@dataclass(frozen=True, kw_only=True)
class ImageSizeOptions:
    """The size of the model's input."""

    image_size: int | None = None
    """Side of the model's square input in pixels; the model's own if not given."""
