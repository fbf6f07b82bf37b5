"""The classifier of pixels: a small multilayer perceptron on `PixelFeatures`, beside the frozen model's logit.

Its logit is the perceptron's plus a learnt factor times the frozen model's, and the perceptron starts at zero: it
learns what the frozen model gets wrong. Several networks, one for each fold and one for all examples, are fitted in
one batch of matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from fewseg.core.progress import ProgressCallback, silent
from fewseg.inference.adaptation.features import PixelFeatures

WIDTH: Final = 64
"""Units of the first hidden layer."""

HIDDEN: Final = 32
"""Units of the second hidden layer."""

STEPS: Final = 600
"""Steps of a fit."""

BATCH: Final = 512
"""Pixels of each step."""

LEARNING_RATE: Final = 3e-3
"""Peak of the one-cycle schedule."""

WEIGHT_DECAY: Final = 0.05
"""AdamW's decay."""

INPUT_DROPOUT: Final = 0.5
"""Share of the descriptions that are left out in each step: most say the same of a few examples, and to rely on all of
them generalises better than to rely on the best."""

DROPOUT: Final = 0.1
"""Share of the first layer's units that are left out in each step."""

REPORTED: Final = 25
"""Steps between two reports of progress."""

START: Final = 0.5
"""Initial factor on the frozen logit."""

LIMIT: Final = 5.0
"""Standardised descriptions, of training pixels, are clamped to +/- this."""

STRIP: Final = 1 << 14
"""Pixels that go through the layers at a time: few enough for the processor's cache."""

Parameters = dict[str, Tensor]


@dataclass(frozen=True)
class TrainingPixels:
    """Labelled pixels of several examples."""

    features: Tensor
    """(N, F), standardised."""
    frozen: Tensor
    """(N): logits of the frozen model that was taught with the other examples."""
    truth: Tensor
    """(N), float32: 1 foreground, 0 background."""
    weight: Tensor
    """(N)."""
    example: Tensor
    """(N), int64: the example that a pixel belongs to."""


def fit_networks(
    pixels: TrainingPixels,
    chosen: Sequence[Tensor],
    *,
    steps: int = STEPS,
    seed: int = 0,
    input_dropout: float = INPUT_DROPOUT,
    progress: ProgressCallback = silent,
) -> list[Parameters]:
    """One network for every set of `chosen` pixels (indices into `pixels`), all from the same start.

    `progress` is called every `REPORTED` steps with the number of such reports so far and in all.
    """
    generator = torch.Generator().manual_seed(seed)
    count, width = len(chosen), pixels.features.shape[1]
    parameters = _initial(count, width, generator)
    optimiser = torch.optim.AdamW(parameters.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, foreach=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps, pct_start=0.2)
    for step in range(steps):
        some = torch.stack([own[torch.randint(len(own), (BATCH,), generator=generator)] for own in chosen])
        kept = [
            (torch.rand(BATCH, units, generator=generator) >= rate) / (1 - rate)
            for units, rate in ((width, input_dropout), (WIDTH, DROPOUT))
        ]
        logits = _forward(parameters, pixels.features[some] * kept[0], pixels.frozen[some], kept[1])
        weight = pixels.weight[some]
        losses = F.binary_cross_entropy_with_logits(logits, pixels.truth[some], reduction="none") * weight
        optimiser.zero_grad()
        (losses.sum(1) / weight.sum(1)).sum().backward()
        optimiser.step()
        schedule.step()
        if (step + 1) % REPORTED == 0:
            progress((step + 1) // REPORTED, steps // REPORTED, "")
    return [{name: tensor[i].detach().clone() for name, tensor in parameters.items()} for i in range(count)]


def _initial(count: int, width: int, generator: torch.Generator) -> Parameters:
    """The parameters (count, ...) that every network starts from."""

    def uniform(inputs: int, outputs: int) -> Tensor:
        return ((torch.rand(inputs, outputs, generator=generator) * 2 - 1) / inputs**0.5).expand(count, -1, -1)

    start = {
        "weight1": uniform(width, WIDTH),
        "bias1": torch.zeros(count, 1, WIDTH),
        "weight2": uniform(WIDTH, HIDDEN),
        "bias2": torch.zeros(count, 1, HIDDEN),
        "weight3": torch.zeros(count, HIDDEN, 1),
        "bias3": torch.zeros(count, 1, 1),
        "frozen": torch.full((count, 1, 1), START),
    }
    return {name: tensor.clone().requires_grad_() for name, tensor in start.items()}


def _forward(parameters: Parameters, x: Tensor, frozen: Tensor, kept: Tensor) -> Tensor:
    """Logits (count, N) of descriptions (count, N, F); `kept` (N, WIDTH) are the factors of the dropout."""
    x = F.relu(torch.baddbmm(parameters["bias1"], x, parameters["weight1"])) * kept
    x = F.relu(torch.baddbmm(parameters["bias2"], x, parameters["weight2"]))
    return (torch.baddbmm(parameters["bias3"], x, parameters["weight3"])).squeeze(2) + (
        parameters["frozen"].squeeze(2) * frozen
    )


def fold_standardisation(parameters: Parameters, mean: Tensor, scale: Tensor) -> Parameters:
    """The network for descriptions as they are, of one for `(description - mean) / scale`."""
    weight = parameters["weight1"] / scale[:, None]
    return {**parameters, "weight1": weight, "bias1": parameters["bias1"] - mean @ weight}


@torch.no_grad()
def pixel_logits(parameters: Mapping[str, Tensor], x: Tensor, frozen: Tensor) -> Tensor:
    """Logits (N) of descriptions (N, F) with the frozen model's logits (N)."""
    first = torch.addmm(parameters["bias1"], x, parameters["weight1"]).relu_()
    return _upper_layers(parameters, first.T) + parameters["frozen"].flatten() * frozen


@torch.no_grad()
def map_logits(parameters: Mapping[str, Tensor], features: PixelFeatures, frozen: Tensor) -> Tensor:
    """Logits (H, W) of every pixel of an image; `frozen` (H, W) are the frozen model's.

    `pixel_logits` of all pixels, the first layer being applied to maps at their own sizes.
    """
    first = features.linear(parameters["weight1"].T, parameters["bias1"].flatten())
    height, width = features.size
    out = torch.empty(height, width, device=frozen.device)
    step = max(1, STRIP // width)
    for start in range(0, height, step):
        stop = min(start + step, height)
        out[start:stop] = _upper_layers(parameters, first.rows(start, stop).relu_()).view(-1, width)
    return out + parameters["frozen"].flatten() * frozen


def _upper_layers(parameters: Mapping[str, Tensor], first: Tensor) -> Tensor:
    """(N): the perceptron's output for first-layer outputs (WIDTH, N)."""
    second = torch.addmm(parameters["bias2"].T, parameters["weight2"].T, first).relu_()
    return torch.addmm(parameters["bias3"], parameters["weight3"].T, second).squeeze(0)
