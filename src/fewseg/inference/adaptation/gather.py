"""Describes the pixels of a label's examples: those that networks are fitted to, and those that they are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from fewseg.core.progress import ProgressCallback
from fewseg.inference.adaptation.adapted import frozen_logits
from fewseg.inference.adaptation.examples import Example
from fewseg.inference.adaptation.features import MapBasis, PixelFeatures, image_maps
from fewseg.inference.adaptation.network import LIMIT, TrainingPixels
from fewseg.inference.adaptation.sampling import PixelSample, lattice, sample_pixels
from fewseg.inference.adaptation.views import FEW, WEIGHT, views
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.resize import map_size

PIXELS: Final = 60_000
"""Pixels of all examples together, at most, that networks are fitted to; views come on top."""

PER_EXAMPLE: Final = (300, 3000)
"""Least and most of them of one example."""

SHARES: Final = (0.4, 0.35, 0.25)
"""Of an example's pixels: from everywhere, from the foreground, from next to it."""


@dataclass(frozen=True)
class DescribedPixels:
    """Some labelled pixels of one example."""

    features: Tensor
    """(N, F); in half precision where they only serve to judge."""
    frozen: Tensor
    """(N): logits of the frozen model that was taught with the other scenes."""
    sample: PixelSample


@dataclass(frozen=True)
class Gathered:
    """All that networks are fitted to and judged by."""

    training: TrainingPixels
    mean: Tensor
    """(F) of the training pixels before they were standardised; so is `scale`."""
    scale: Tensor
    judged: tuple[DescribedPixels, ...]
    """Of every example."""


@torch.no_grad()
def gather(
    method: FewShotMethod,
    basis: Sequence[MapBasis],
    examples: Sequence[Example],
    frozen: Sequence[Tensor],
    seed: int,
    progress: ProgressCallback,
) -> Gathered:
    """The pixels of examples, given for each the foreground probabilities (s, s) of the frozen model without it."""
    each = int(np.clip(PIXELS / len(examples), *PER_EXAMPLE))
    counts = (round(each * SHARES[0]), round(each * SHARES[1]), round(each * SHARES[2]))
    training: list[DescribedPixels] = []
    judged: list[DescribedPixels] = []
    owners: list[int] = []
    for number, (example, probabilities) in enumerate(zip(examples, frozen, strict=True)):
        rng = np.random.default_rng([seed, number])
        logits = frozen_logits(probabilities.cpu(), map_size(example.image))
        features = image_maps(method, example.image).project(basis)
        training.append(_described(features, logits, sample_pixels(example.mask, counts, rng)))
        own = _described(features, logits, lattice(example.mask))
        judged.append(DescribedPixels(own.features.half(), own.frozen, own.sample))
        for view in views(example, rng) if len(examples) < FEW else ():
            features = image_maps(method, view.example.image, view.zoom).project(basis)
            seen = logits.flatten()[torch.from_numpy(view.origin)]
            sample = sample_pixels(view.example.mask, counts, rng, total=WEIGHT)
            training.append(_described(features, seen, sample))
        owners += [number] * (len(training) - len(owners))
        progress(number + 1, len(examples), "examples")
    pixels, mean, scale = _together(training, owners)
    return Gathered(pixels, mean, scale, tuple(judged))


def _described(features: PixelFeatures, logits: Tensor, sample: PixelSample) -> DescribedPixels:
    """The pixels of a sample of an image with the frozen model's `logits` (H, W)."""
    rows, columns = torch.from_numpy(sample.rows), torch.from_numpy(sample.columns)
    described = features.at(rows.to(features.device), columns.to(features.device)).cpu()
    return DescribedPixels(described, logits[rows, columns], sample)


def _together(parts: Sequence[DescribedPixels], owners: Sequence[int]) -> tuple[TrainingPixels, Tensor, Tensor]:
    """All pixels, standardised, with mean and scale (F); `owners` are the examples that the parts belong to."""
    features = torch.cat([part.features for part in parts])
    mean, scale = features.mean(0), features.std(0, correction=0) + 1e-3
    pixels = TrainingPixels(
        features=features.sub_(mean).div_(scale).clamp_(-LIMIT, LIMIT),
        frozen=torch.cat([part.frozen for part in parts]),
        truth=torch.cat([torch.from_numpy(part.sample.truth) for part in parts]),
        weight=torch.cat([torch.from_numpy(part.sample.weight) for part in parts]),
        example=torch.cat([torch.full((len(p.frozen),), own) for p, own in zip(parts, owners, strict=True)]),
    )
    return pixels, mean, scale
