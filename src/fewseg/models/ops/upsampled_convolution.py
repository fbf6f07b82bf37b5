"""3x3 convolution of an upsampled map, computed before the upsampling.

A 3x3 convolution is nine 1x1 convolutions whose results are shifted and added. A 1x1 convolution commutes with bilinear
upsampling, so the channels can be mixed at the low resolution: a quarter of the multiplications where the sides double.
Upsampling, shifts, the padding with zeros and the sum over a row's (or column's) three offsets are one small matrix a
direction, so borders come out exactly as the plain convolution has them.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.models.ops.resize import map_size, resize

GAIN = {torch.float32: 1.5, torch.bfloat16: 3.0}
"""How many times fewer multiplications pay for the additional steps, by dtype, on CPUs. Measured: see
docs/lab/performance.md. Other dtypes and devices: the plain convolution."""


def low_resolution_pays(x: Tensor, outputs: int, size: tuple[int, int]) -> bool:
    """Whether `convolve_low` is faster; only without gradients, on CPUs."""
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype not in GAIN or map_size(x) == size:
        return False
    if torch.jit.is_tracing() or torch.compiler.is_compiling():  # type: ignore[attr-defined]
        return False
    (h, w), (height, width), channels = map_size(x), size, x.shape[1]
    plain = 9 * channels * outputs * height * width
    low = 9 * channels * outputs * h * w + 3 * outputs * h * width * 3 * w + outputs * width * height * 3 * h
    return plain > GAIN[x.dtype] * low


def convolve_low(x: Tensor, weight: Tensor, size: tuple[int, int]) -> Tensor:
    """`F.conv2d(resize(x, size), weight, padding=1)`, equal to rounding; the result is in channels-last order.

    x (B, C, h, w), weight (O, C, 3, 3), to (B, O, *size).
    """
    (b, c, h, w), (height, width), o = x.shape, size, weight.shape[0]
    across, down = (_spread(n, to, x.device, x.dtype) for n, to in ((w, width), (h, height)))
    tokens = x.permute(0, 2, 3, 1).reshape(-1, c)
    taps = weight.permute(2, 1, 3, 0).reshape(3, c, 3 * o)  # vertical offset; channel; horizontal offset and output
    # Only views from here on: (w, horizontal offset), then (vertical offset, h) are summed over by one matrix each.
    rows = torch.stack([(across @ (tokens @ tap).view(b * h, 3 * w, o)).view(b, h, width * o) for tap in taps], 1)
    out = down.view(height, h, 3).transpose(1, 2).reshape(height, 3 * h) @ rows.view(b, 3 * h, width * o)
    return out.view(b, height, width, o).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _spread(length: int, to: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(to, 3 * length): bilinear upsampling of a line for the offsets -1, 0 and 1, offsets innermost.

    Rows at the ends have zeros for the offset that leaves the line: there the plain convolution sees padding.
    """
    with torch.inference_mode(False):
        line = torch.eye(length, device=device).view(1, length, 1, length)
        upsampled = resize(line, (1, to))[0, :, 0].T  # (to, length)
        padded = F.pad(upsampled, (0, 0, 1, 1))
        return torch.stack([padded[offset : offset + to] for offset in range(3)], 2).flatten(1).to(dtype)
