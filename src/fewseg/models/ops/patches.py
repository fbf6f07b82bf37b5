"""Masks of pixels to masks of patches, and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.models.ops.resize import map_size


def mask_to_patches(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(M, h, w), bool: the patches that masks (M, H, W) of 0 and 1 cover, at least one wherever a mask is not empty.

    Sampled bilinearly without antialiasing, and above one half: of a patch of 16 pixels the four central ones are
    looked at, three of which must be foreground. Where no patch is left, those whose first pixel is foreground; where
    there is none either, the one at the mean place of the foreground.
    """
    foreground = masks.float()
    sampled = F.interpolate(foreground[:, None], size, mode="bilinear", align_corners=False)[:, 0] > 0.5
    for index in range(len(sampled)):
        if sampled[index].any() or not masks[index].any():
            continue
        sampled[index] = first_pixels(masks[index : index + 1], size)[0]
        if not sampled[index].any():
            row, column = _central_patch(masks[index], size)
            sampled[index, row, column] = True
    return sampled


def first_pixels(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(M, h, w), bool: patches whose top left pixel is foreground in masks (M, H, W)."""
    return F.interpolate(masks.float()[:, None], size, mode="nearest")[:, 0] > 0


def _central_patch(mask: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    """Row and column of the patch at the mean place of the foreground of a mask (H, W)."""
    patch = max(1, map_size(mask)[1] // size[1])
    centre = mask.cpu().nonzero().double().mean(0)
    row, column = (int(place // patch) for place in centre.tolist())
    return min(row, size[0] - 1), min(column, size[1] - 1)


def patches_to_pixels(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Values (h, w) of patches as pixels `size`, bilinear between the patches' centres."""
    return F.interpolate(values[None, None].float(), size, mode="bilinear", align_corners=False)[0, 0]


def decide_like(logits: Tensor, inside: Tensor) -> Tensor:
    """Logits whose sign is exactly `inside`, also where rounding made them 0: a tie is background."""
    least = torch.finfo(torch.float16).tiny  # survives every precision
    return torch.where(inside, logits.clamp(min=least), logits.clamp(max=-least))
