"""Devices and precisions."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from typing import Final

import torch

from fewseg.core.errors import InvalidOption, unknown

PRECISIONS: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Precision by name."""

_DEVICES: Final = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str | torch.device = "auto") -> torch.device:
    """`auto` is CUDA, else Apple's GPU, else the CPU; raises `InvalidOption` for what is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind = str(name).split(":")[0]
    if kind not in _DEVICES:
        raise unknown("device", str(name), _DEVICES)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InvalidOption(f"device {str(name)!r} means nothing: write it like cuda or cuda:1") from None
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(kind, 1)
    if (device.index or 0) >= there:
        raise InvalidOption(f"device {name} is not available here ({there} of kind {kind}): choose auto or cpu")
    return device


def choose_dtype(
    name: str | torch.dtype, device: torch.device, bfloat16_devices: Collection[str] = ("cuda",)
) -> torch.dtype:
    """The precision named; `auto` is bfloat16 where it is native and faster, and float32 elsewhere.

    Native means CUDA devices of compute capability 8 or more, and CPUs with a matrix unit for it (AMX). CPUs that have
    only vector instructions for it (AVX-512) compute in float32: a query took 0.8 times as long there, too
    small a gain for results that depend on the processor. `bfloat16_devices` names the device types on which the model
    is faster and no less accurate with it (`FewShotMethod.bfloat16_devices`).
    """
    if isinstance(name, torch.dtype):
        name = str(name).removeprefix("torch.")
    if name != "auto":
        if name not in PRECISIONS:
            raise unknown("precision", name, ["auto", *PRECISIONS])
        return PRECISIONS[name]
    if device.type not in bfloat16_devices:
        return torch.float32
    native = has_bfloat16_tiles() if device.type == "cpu" else device.type == "cuda" and has_bfloat16(device)
    return torch.bfloat16 if native else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; others imitate it, slowly."""
    if device.type != "cpu":
        return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return has_bfloat16_tiles() or bool(supported is not None and supported())


@cache
def has_bfloat16_tiles() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in a unit of their own (AMX)."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return bool(capabilities().get("amx_bf16", False))
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)  # before there was a public way to ask
    return bool(supported is not None and supported())
