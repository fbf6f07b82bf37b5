"""Classical image filters at several scales: what a pixel classifier needs where objects are thinner than a token.

Per scale: smoothed colours, gradient magnitude, eigenvalues of the Hessian (ridges and blobs) and of the structure
tensor (texture), and the intensity relative to its surroundings. The set is the usual one of interactive pixel
classification (Berg et al., "ilastik: interactive machine learning for (bio)image analysis", Nature Methods 2019).
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.models.ops.resize import map_size

LEVELS: Final = 6
"""Scales: full size, and halved as often as that less one."""

CHANNELS: Final = 12
"""Responses of each scale."""

_SMOOTHING, _SURROUNDINGS = 0.8, 1.6
"""Standard deviations, in pixels of the level, of the Gaussians before derivatives and for local statistics."""

_GAIN: Final = 4.0
"""Factor that brings differences of intensities to the scale of intensities."""


def filter_pyramid(image: Tensor) -> list[Tensor]:
    """Filter responses (12, h, w), full size first, each level half the size of the one before.

    `image` is (3, H, W), float32 in [0, 1].
    """
    levels = []
    for _ in range(LEVELS):
        levels.append(filter_responses(image))
        height, width = (max(4, (side + 1) // 2) for side in map_size(image))
        image = F.interpolate(image[None], (height, width), mode="bilinear", antialias=True)[0]
    return levels


def filter_responses(image: Tensor) -> Tensor:
    """The responses (12, H, W) at one scale of an image (3, H, W)."""
    grey = image.mean(0, keepdim=True)
    smooth = blur(image, _SMOOTHING)
    level = smooth.mean(0, keepdim=True)
    around = F.pad(level[None], (1, 1, 1, 1), mode="replicate")[0]
    left, right, above, below = around[:, 1:-1, :-2], around[:, 1:-1, 2:], around[:, :-2, 1:-1], around[:, 2:, 1:-1]
    dx, dy = (right - left) / 2, (below - above) / 2
    dxy = (around[:, 2:, 2:] - around[:, 2:, :-2] - around[:, :-2, 2:] + around[:, :-2, :-2]) / 4
    ridge, valley = _eigenvalues(right - 2 * level + left, below - 2 * level + above, dxy)
    local = blur(torch.cat([dx * dx, dy * dy, dx * dy, grey, grey * grey]), _SURROUNDINGS)
    texture = [value.clamp_min(0).add(1e-10).sqrt() for value in _eigenvalues(local[0:1], local[1:2], local[2:3])]
    mean = local[3:4]
    deviation = (local[4:5] - mean * mean).clamp_min(1e-8).sqrt()
    strengths = [(dx * dx + dy * dy + 1e-12).sqrt(), ridge, valley, *texture, deviation, level - mean]
    return torch.cat([smooth, grey, *(_GAIN * s for s in strengths), (level - mean) / (deviation + 0.02)])


def blur(image: Tensor, sigma: float) -> Tensor:
    """A Gaussian of that standard deviation, in pixels, over (C, H, W); edges are continued."""
    radius = math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
    kernel = torch.exp(-places.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(image.shape[0], 1, 1, -1)
    x = F.conv2d(F.pad(image[None], (radius, radius, 0, 0), mode="replicate"), kernel, groups=image.shape[0])
    x = F.pad(x, (0, 0, radius, radius), mode="replicate")
    return F.conv2d(x, kernel.transpose(2, 3), groups=image.shape[0])[0]


def _eigenvalues(xx: Tensor, yy: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """The larger and the smaller eigenvalue of symmetric 2 x 2 matrices."""
    mean, half = (xx + yy) / 2, (xx - yy) / 2
    radius = (half * half + xy * xy + 1e-12).sqrt()
    return mean + radius, mean - radius
