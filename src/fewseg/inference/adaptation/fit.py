"""Fits a label to its own examples, and finds out on left-out examples whether that helps.

Whatever is fitted sees, for each example, the frozen model's logits without that example in the support: attention
would otherwise find the example itself, and every network would learn to trust it. Networks are fitted once for each
fold of the examples, which they then predict, and once for all examples, which is what is used.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewseg.core.progress import ProgressCallback, part_of, silent
from fewseg.inference.adaptation.adapted import PARTS, AdaptedLabel, part_columns
from fewseg.inference.adaptation.choice import choose, ious
from fewseg.inference.adaptation.examples import Example, folds
from fewseg.inference.adaptation.features import fit_basis
from fewseg.inference.adaptation.gather import Gathered, gather
from fewseg.inference.adaptation.network import (
    INPUT_DROPOUT,
    REPORTED,
    STEPS,
    Parameters,
    fit_networks,
    fold_standardisation,
    pixel_logits,
)
from fewseg.inference.adaptation.report import Adaptation
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.top_k import top_fraction_mean
from fewseg.models.presence import SCORE_SHARE

FOLDS: Final = 5
"""Folds of the examples at most: each costs one more network of every kind."""

BASIS_IMAGES: Final = 20
"""Images whose maps give the principal components, at most."""

DROPOUT: Final[Mapping[str, float]] = {"filters": 0.2}
"""Input dropout of the networks that have another than `INPUT_DROPOUT`: the filters are few."""

SHORTEST, NOMINAL = 150, 60.0
"""Steps of a fit that is given no time; seconds for which it takes all its steps."""

CURVE_SIZES: Final = (2, 5, 10, 20, 40)
"""Numbers of examples of a learning curve."""

CURVE_SHARE: Final = 0.6
"""Share of the examples that one of its networks is fitted to, at most: the rest judges it."""

CURVE_DRAWS: Final = 2
"""Networks for each number."""

Logits = dict[str, list[NDArray[np.float32]]]


@dataclass(frozen=True)
class Task:
    """A label to adapt, of two examples or more."""

    label: str
    examples: tuple[Example, ...]
    scenes: tuple[int, ...]
    """The scene of every example."""
    frozen: tuple[Tensor, ...]
    """Foreground probabilities (s, s) of every example by the model that was taught with the other scenes."""


def adapt_label(
    method: FewShotMethod,
    task: Task,
    *,
    seconds: float = NOMINAL,
    seed: int = 0,
    force: bool = False,
    curve: bool = False,
    progress: ProgressCallback = silent,
) -> AdaptedLabel:
    """The label's adaptation; its report says whether to use it (`force` says yes whatever the examples say).

    With `curve` the report has a learning curve, for the time of a few more networks.
    """
    began = time.monotonic()
    steps = round(SHORTEST + (STEPS - SHORTEST) * min(1.0, seconds / NOMINAL))
    count = len(task.examples)
    total = count + len(PARTS) * (steps // REPORTED)
    basis = fit_basis(method, [e.image for e in task.examples[:: -(-count // BASIS_IMAGES)]])
    gathered = gather(method, basis, task.examples, task.frozen, seed, part_of(progress, 0, total, task.label))
    fold = torch.tensor(folds(task.scenes, FOLDS))
    networks, logits = _fit_parts(gathered, fold, steps, seed, part_of(progress, count, total, task.label))
    points = _learning_curve(gathered, fold, logits["all"], steps, seed) if curve else ()
    choice = choose(logits, [judged.sample.truth == 1 for judged in gathered.judged], force=force)
    report = Adaptation(
        label=task.label,
        examples=count,
        adapted=choice.better,
        iou_before=float(np.mean(choice.before)),
        iou_after=float(np.mean(choice.after)),
        per_image=tuple(zip(choice.before, choice.after, strict=True)),
        seconds=time.monotonic() - began,
        curve=points,
    )
    together = [np.mean(own, 0) for own in zip(*(logits[part] for part in choice.parts), strict=True)]
    peaks = tuple(float(top_fraction_mean(torch.from_numpy(own)[None].sigmoid(), SCORE_SHARE)) for own in together)
    return AdaptedLabel(basis, {part: networks[part] for part in choice.parts}, peaks, report)


def _fit_parts(
    gathered: Gathered, fold: Tensor, steps: int, seed: int, progress: ProgressCallback
) -> tuple[dict[str, Parameters], Logits]:
    """By part: the network of all examples, and logits of every example by the network that has not seen its fold.

    `fold` are the examples' folds; among the logits are the frozen model's, `frozen`.
    """
    pixels, judged = gathered.training, gathered.judged
    of_pixels = fold[pixels.example]
    chosen = [torch.nonzero(of_pixels != f)[:, 0] for f in range(int(fold.max()) + 1)]
    chosen.append(torch.arange(len(of_pixels)))
    networks: dict[str, Parameters] = {}
    logits: Logits = {"frozen": [one.frozen.numpy() for one in judged]}
    for done, part in enumerate(PARTS):
        columns = part_columns(part, pixels.features.shape[1])
        own = replace(pixels, features=pixels.features[:, columns])
        dropout = DROPOUT.get(part, INPUT_DROPOUT)
        own_progress = part_of(progress, done * (steps // REPORTED), len(PARTS) * (steps // REPORTED), part)
        fitted = fit_networks(own, chosen, steps=steps, seed=seed, input_dropout=dropout, progress=own_progress)
        fitted = [fold_standardisation(n, gathered.mean[columns], gathered.scale[columns]) for n in fitted]
        networks[part] = fitted[-1]
        logits[part] = [
            pixel_logits(fitted[own_fold], one.features[:, columns].float(), one.frozen).numpy()
            for own_fold, one in zip(fold.tolist(), judged, strict=True)
        ]
    return networks, logits


def _learning_curve(
    gathered: Gathered, fold: Tensor, left_out: Sequence[NDArray[np.float32]], steps: int, seed: int
) -> tuple[tuple[int, float], ...]:
    """Numbers of examples with the mean IoU, on the others, of networks that are fitted to so many.

    The last point is that of the folds, whose `left_out` logits are known.
    """
    count = len(gathered.judged)
    rng = np.random.default_rng(seed)
    sizes = [size for size in CURVE_SIZES if size <= CURVE_SHARE * count]
    draws = [np.sort(rng.permutation(count)[:size]) for size in sizes for _ in range(CURVE_DRAWS)]
    chosen = [torch.nonzero(torch.isin(gathered.training.example, torch.from_numpy(own)))[:, 0] for own in draws]
    networks = fit_networks(gathered.training, chosen, steps=steps, seed=seed) if draws else []
    points: dict[int, list[float]] = {}
    for own, network in zip(draws, networks, strict=True):
        raw = fold_standardisation(network, gathered.mean, gathered.scale)
        others = [one for number, one in enumerate(gathered.judged) if number not in own]
        logits = [pixel_logits(raw, one.features.float(), one.frozen).numpy() for one in others]
        points.setdefault(len(own), []).append(float(ious([logits], [o.sample.truth == 1 for o in others]).mean()))
    last = float(ious([left_out], [one.sample.truth == 1 for one in gathered.judged]).mean())
    folds_used = int(fold.max()) + 1
    means = [(size, float(np.mean(values))) for size, values in points.items()]
    return (*means, (round(count * (folds_used - 1) / folds_used), last))
