"""Where and how precisely to compute."""

from __future__ import annotations

from typing import Final

import torch

from fewseg.errors import InvalidOption, unknown

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


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on CUDA devices that have it and float32 elsewhere.

    On CPUs bfloat16 is left to be asked for: with AVX-512 instructions for it a query took 0.8 times as long (DCAMA
    at 384 pixels, one machine, under load), which does not pay for results that depend on the processor.
    """
    if name != "auto":
        if name not in PRECISIONS:
            raise unknown("precision", name, ["auto", *PRECISIONS])
        return PRECISIONS[name]
    fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.bfloat16 if fast else torch.float32
