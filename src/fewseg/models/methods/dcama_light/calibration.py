"""Calibration of the light method's logits: fitted before and after training instead of learnt with the weights.

The loss of the weights sees only images that hold the class. Where the class is absent, and how certain a mask may be,
is therefore measured on validation episodes once training ends; the base classes' mean prototype before it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewseg.core.types import IGNORE, EpisodeTensors
from fewseg.models.methods.dcama_light.prototypes import centred
from fewseg.models.ops.resize import map_size, resize
from fewseg.models.ops.top_k import top_fraction_mean

TOP_FRACTION: Final = 0.01
"""Fraction of the pixels whose mean logit is an image's peak."""

RAISE_LIMIT: Final = 4.0
"""Largest offset that is added to logits."""

FACTOR_LIMIT: Final = 5.0
"""Factors on logits are clamped to exp(+/- 5): similarities beyond those fitted to must give no zeros or infinities."""

BORDER: Final = 2
"""Pixels at the finest skip scale by which the predicted foreground is dilated for the temperature."""

RAISES: Final = torch.linspace(0, RAISE_LIMIT, 17)
"""Offsets at which masks are measured; between them IoU is interpolated."""

SAMPLES_PER_SIDE: Final = 32
"""Pixels of each image that the temperature is fitted to, squared: neighbours say the same."""

_THRESHOLDS: Final = 41
"""Thresholds that are tried, from the lowest peak to the highest."""

_SLOPES: Final = torch.linspace(0, 0.95, 39)
"""Below 1, or low peaks would become equal, and `present` could not tell them apart."""

_STARTS: Final = ((0.0, 0.0), (0.0, 1.0), (-2.0, 2.0))
"""Log factor at the mean similarity and its change by a standard deviation, from which the temperature is fitted."""

_LEAST_SPREAD: Final = 0.1
"""Similarities that differ by less are not told apart: a hundredth of a cosine."""

_REGULARISATION: Final = 1e-4
"""Weight of the squared parameters: what the pixels say nothing of stays at 0."""


@dataclass(frozen=True)
class PixelSample:
    """Pixels of a query, before the temperature."""

    logit: Tensor
    """(1, 1, h, w): foreground minus background."""
    near: Tensor
    """(1, 1, h, w): `near_foreground` of it."""
    similarity: Tensor
    """(1): `Calibration.foreground_similarity`."""
    truth: Tensor
    """(1, 1, h, w): 0, 1, 255."""


class Calibration(nn.Module):
    """Buffers fitted to episodes, saved with the weights, and what they do to logits."""

    logit_offset: Tensor
    """(2): threshold of the peak and slope below it; see `add_offset`."""
    temperature: Tensor
    """(2, 2), log factors on logits: rows are pixels far from and near the predicted foreground, columns intercept and
    slope on the similarity."""
    base_prototype: Tensor
    """(C): mean foreground prototype of the base classes, all blocks one after another from the finest scale.
    Subtracting it leaves what is specific to a class. Measured before training; the weights rely on it from then on."""

    def __init__(self, widths: Sequence[int]) -> None:
        """`widths`: channels of every block's tokens, from the finest scale."""
        super().__init__()
        self.widths = list(widths)
        self.register_buffer("logit_offset", torch.zeros(2))
        self.register_buffer("temperature", torch.zeros(2, 2))
        self.register_buffer("base_prototype", torch.zeros(sum(widths)))

    def reset(self) -> None:
        """Clear what was fitted after a training; the base prototype stays."""
        self.logit_offset.zero_()
        self.temperature.zero_()

    def base_prototypes(self) -> tuple[Tensor, ...]:
        """The base prototype of every block."""
        return self.base_prototype.split(self.widths)

    # ------------------------------------------------------------------------------------------- application

    def add_offset(self, logit: Tensor) -> Tensor:
        """Logits (B, 1, h, w) plus `min(slope * max(threshold - peak, 0), RAISE_LIMIT)`.

        Weakly recognised objects have low logits throughout, and a threshold of 0 would under-segment them. Pixel
        ranking within an image is unchanged.
        """
        threshold, slope = self.logit_offset.to(logit.dtype)
        offset = (slope * F.relu(threshold - peak(logit))).clamp(max=RAISE_LIMIT)
        return logit + offset[:, None, None, None]

    def foreground_similarity(self, prototypes: Sequence[Tensor], queries: Sequence[Tensor]) -> Tensor:
        """(B * L): centred similarity of the query's predicted foreground to the support's, mean over blocks.

        `prototypes` (B, L, C) and `queries` (B, 2 * L, C), from `query_prototypes`, are those of the coarsest blocks.
        A salient object is often predicted even where the class is absent; it is less similar.
        """
        labels = prototypes[0].shape[1]
        values = []
        for own, prototype, base in zip(queries, prototypes, self.base_prototypes()[-len(prototypes) :], strict=True):
            direction, level = centred(prototype.float(), base.float())
            values.append((own[:, :labels].float() * direction).sum(-1) - level)
        return torch.stack(values).mean(0).flatten()

    def scale(self, logit: Tensor, similarity: Tensor) -> Tensor:
        """Logits (B, 1, h, w) of predictions with such a similarity (B), scaled by the temperature's factors."""
        return scale_logits(logit, near_foreground(logit), similarity, self.temperature)

    # ------------------------------------------------------------------------------------------------- fitting

    def fit_base_prototype(self, classes: Iterable[tuple[float, Sequence[Tensor]]]) -> None:
        """Weighted mean over classes of the mean of their images' prototypes (C); `classes` gives weight and those."""
        total, weights = torch.zeros_like(self.base_prototype), []
        for weight, prototypes in classes:
            weights.append(weight)
            for prototype in prototypes:
                total += prototype * (weight / len(prototypes))
        self.base_prototype.copy_(total / sum(weights))

    def fit(
        self,
        episodes: Iterable[EpisodeTensors],
        pairs: Iterable[tuple[EpisodeTensors, EpisodeTensors]],
        *,
        raised: Callable[[EpisodeTensors], tuple[Tensor, Tensor]],
        predicted: Callable[[EpisodeTensors], tuple[Tensor, Tensor]],
    ) -> None:
        """Fit the logit offset to the episodes' masks, then the temperature to the pixels of the pairs.

        The offset maximises the mean IoU, and clears the temperature, which has to be fitted to the new logits. The
        temperature minimises the pixels' cross-entropy; masks stay as they are. Either stays where nothing is given.

        Args:
            episodes: batches of one whose query shows the class.
            pairs: such an episode, and one of the same support whose query does not.
            raised: a query's foreground logits (1, 1, h, w), and those (R, 1, h, w) after each of `RAISES`.
            predicted: a query's foreground logits (1, 1, h, w), and their `foreground_similarity` (1).
        """
        measured = []
        for episode in episodes:
            self.reset()  # what is fitted is fitted to the decoder's own logits
            logit, after = raised(episode)
            measured.append((peak(logit)[0].cpu(), mask_ious(after, episode.query_mask)))
        if measured:
            peaks, ious = (torch.stack(values) for values in zip(*measured, strict=True))
            self.reset()
            self.logit_offset.copy_(best_offset(peaks, ious))
        samples = []
        for episode in chain.from_iterable(pairs):
            self.temperature.zero_()
            samples.append(pixel_sample(*predicted(episode), episode.query_mask))
        if samples:
            self.temperature.copy_(best_temperature(samples))


def peak(logit: Tensor) -> Tensor:
    """(B): the mean of the top 1 % of logits (B, 1, h, w)."""
    return top_fraction_mean(logit.flatten(1), TOP_FRACTION)


def near_foreground(logit: Tensor) -> Tensor:
    """Probability, in [0, 1], that each pixel of (B, 1, h, w) is within `BORDER` of the predicted foreground."""
    return F.max_pool2d(logit.sigmoid(), 2 * BORDER + 1, stride=1, padding=BORDER)


def mask_ious(logits: Tensor, truth: Tensor) -> Tensor:
    """IoU (R), on the CPU, of the masks of logits (R, 1, h, w) of one image with its truth (1, H, W): 0, 1, 255."""
    truth = truth.to(logits.device)
    predicted = (resize(logits, map_size(truth))[:, 0] >= 0) & (truth != IGNORE)
    foreground = truth == 1
    both, either = (predicted & foreground).sum((1, 2)), (predicted | foreground).sum((1, 2))
    return (both / either.clamp_min(1)).cpu()


def pixel_sample(logit: Tensor, similarity: Tensor, truth: Tensor) -> PixelSample:
    """Evenly spaced pixels of logits (1, 1, h, h) with such a similarity (1) and truth (1, H, H)."""
    logit = logit.cpu()
    fine, places = _spaced(logit.shape[-2]), _spaced(truth.shape[-1])
    return PixelSample(
        logit[:, :, fine][..., fine],
        near_foreground(logit)[:, :, fine][..., fine],
        similarity.float().cpu(),
        truth.cpu()[:, None, places][..., places],
    )


def _spaced(side: int) -> Tensor:
    """Indices of the sampled pixels of a side."""
    return torch.linspace(0, side - 1, SAMPLES_PER_SIDE).round().long()


def scale_logits(logit: Tensor, near: Tensor, similarity: Tensor, temperature: Tensor) -> Tensor:
    """Logits (B, 1, h, w) times positive factors that depend on `near_foreground` and on the similarity (B).

    Both sides of a mask's boundary get the same factor, or resizing would move the boundary.
    """
    far, close = (temperature[:, :1] + temperature[:, 1:] * similarity).view(2, -1, 1, 1, 1)
    exponent = torch.lerp(far, close, near.to(far.dtype)).clamp(-FACTOR_LIMIT, FACTOR_LIMIT)
    return logit * exponent.exp().to(logit.dtype)


def best_offset(peaks: Tensor, ious: Tensor) -> Tensor:
    """The `logit_offset` (2) with the largest mean IoU of episodes with such peaks (E) and IoU (E, R), see `RAISES`.

    Of equals the one with the smallest slope.
    """
    thresholds = torch.linspace(float(peaks.min()), float(peaks.max()), _THRESHOLDS)
    raises = _SLOPES[:, None, None] * (thresholds[:, None] - peaks).clamp_min(0)  # (slopes, thresholds, E)
    places = raises.clamp_max(RAISE_LIMIT) / RAISES[1]
    below = places.floor().long().clamp_max(len(RAISES) - 2)
    each = torch.arange(len(peaks)).expand_as(below)
    means = torch.lerp(ious[each, below], ious[each, below + 1], places - below).mean(2)
    row, column = divmod(int(means.flatten().argmax()), len(thresholds))
    return torch.stack([thresholds[column], _SLOPES[row]]) if row else torch.zeros(2)


def best_temperature(samples: Sequence[PixelSample]) -> Tensor:
    """The `temperature` (2, 2) with the least cross-entropy."""
    logit, near, truth = (torch.cat([getattr(one, name) for one in samples]) for name in ("logit", "near", "truth"))
    similarity = torch.cat([one.similarity for one in samples]).double()
    mean, spread = similarity.mean(), similarity.std().clamp_min(_LEAST_SPREAD)
    pixels = logit.double(), near.double(), (similarity - mean) / spread, truth
    # From several starts: where few predictions are right, to be certain of none is a local minimum.
    fits = [_fit(torch.tensor([[0.0, 0.0], start], dtype=torch.float64), *pixels) for start in _STARTS]
    constant, slope = min(fits, key=lambda one: one[0])[1].unbind(1)
    return torch.stack([constant - slope * mean / spread, slope / spread], 1).float()


def _fit(start: Tensor, logit: Tensor, near: Tensor, similarity: Tensor, truth: Tensor) -> tuple[float, Tensor]:
    """The least regularised cross-entropy that L-BFGS reaches from `start`, (2, 2), and where."""
    temperature = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([temperature], max_iter=100, line_search_fn="strong_wolfe")
    counts, target = truth != IGNORE, (truth == 1).double()

    def loss() -> Tensor:
        optimiser.zero_grad()
        # Clamped, so that no step of the fit leads to infinite factors.
        scaled = scale_logits(logit, near, similarity, temperature.clamp(max=FACTOR_LIMIT))
        entropy = F.binary_cross_entropy_with_logits(scaled[counts], target[counts])
        total = entropy + _REGULARISATION * temperature.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    return loss().item(), temperature.detach().clamp(max=FACTOR_LIMIT)
