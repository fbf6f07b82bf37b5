"""The sine and cosine encoding of flattened positions."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def position_encoding(positions: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(positions, channels): sin(p * 10000^(-2i/C)) in even, the cosine in odd channels. DCAMA section 3.2."""
    place = torch.arange(positions, dtype=torch.float32).unsqueeze(1)
    even = torch.arange(0, channels, 2, dtype=torch.float32)
    angle = place * torch.exp(even * (-math.log(10000.0) / channels))
    encoding = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :channels]
    return encoding.to(device, dtype)
