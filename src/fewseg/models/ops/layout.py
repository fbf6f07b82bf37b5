"""Which memory order convolutions are fastest in."""

from __future__ import annotations

import torch
from torch import Tensor


def convolution_order(x: Tensor) -> Tensor:
    """`x` (B, C, H, W) in the order in which the convolutions that it enters are fastest; same values.

    Channels last on CPUs, whatever the dtype, and for half precision on CUDA devices, whose tensor cores want it; a
    convolution hands the order on. Other devices get `x` as it is.
    """
    half = x.dtype in (torch.bfloat16, torch.float16)
    if x.device.type == "cpu" or (x.device.type == "cuda" and half):
        return x.contiguous(memory_format=torch.channels_last)
    return x
