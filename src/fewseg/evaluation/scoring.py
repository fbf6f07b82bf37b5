"""Segment the queries of a batch of episodes and count, at the original size or at the model's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewseg.core.choices import Scoring as Scoring
from fewseg.core.types import Episode, EpisodeTensors
from fewseg.data.datasets.base import Dataset
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.evaluation.fusion import Fusion, fused_support, segment_fused
from fewseg.evaluation.metrics.iou import intersection_and_union
from fewseg.evaluation.metrics.regions import region_overlaps, rom_rum
from fewseg.images.transforms import Resize
from fewseg.models.methods import FewShotMethod
from fewseg.models.ops.resize import resize as resize_map

COUNTS: Final = 7
"""Numbers kept of a scored episode: intersections and unions of background and foreground, ROM, RUM, seconds."""


@dataclass(frozen=True)
class EvaluationSettings:
    """Options that change a method's scores on given episodes: image fitting, comparison size, fusion, batch size."""

    scoring: Scoring = "original"
    """`original` resizes the logits to the query's own size, `model` compares at the model's input size."""
    resize: Resize = "square"
    """`square` changes the aspect ratio of images, `padded` keeps it, as SCCAN does."""
    fusion: Fusion = "one-pass"
    """How several shots become one prediction: `one-pass` is the method's own n-shot inference; for the others see
    `fewseg.evaluation.fusion`."""
    batch: int = 1
    """Episodes that are segmented together; rounding may depend on it."""


@dataclass(frozen=True)
class EpisodeBatch:
    """Episodes as a method takes them, and the true masks to compare with."""

    tensors: EpisodeTensors
    truths: tuple[NDArray[Any], ...]
    """(H, W) of 0, 1, 255, each of its own size."""


def read_batch(dataset: Dataset, episodes: Sequence[Episode], size: int, settings: EvaluationSettings) -> EpisodeBatch:
    """Read images and masks of episodes with the same number of shots, for an input of `size` pixels a side."""
    tensors = collate([episode_tensors(dataset, episode, size, resize=settings.resize) for episode in episodes])
    if settings.scoring == "model":
        return EpisodeBatch(tensors, tuple(tensors.query_mask.numpy()))
    return EpisodeBatch(tensors, tuple(dataset.mask(episode.query, episode.class_id) for episode in episodes))


def segment_batch(
    method: FewShotMethod, batch: EpisodeBatch, settings: EvaluationSettings
) -> tuple[list[NDArray[Any]], float]:
    """Predicted masks, each of its truth's size, and the seconds that one query took with the support encoded."""
    with torch.inference_mode():
        support = fused_support(method, batch.tensors.images, batch.tensors.masks, settings.fusion)
        for one in support.sets:
            method.prepare_support(one)
        if method.device.type == "cuda":
            torch.cuda.synchronize(method.device)  # the support is still on its way: not the query's time
        started = time.perf_counter()
        logits = segment_fused(method, batch.tensors.query, support).cpu()  # copying waits for a GPU to finish
        spent = time.perf_counter() - started
        masks = predicted_masks(logits, batch.truths, settings)
    return masks, spent / len(masks)


def predicted_masks(logits: Tensor, truths: Sequence[NDArray[Any]], settings: EvaluationSettings) -> list[NDArray[Any]]:
    """Logits (B, 2, s, s) on the CPU to B masks, each of its truth's size."""
    padded = settings.resize == "padded" and settings.scoring == "original"
    return [_at_size(one, truth.shape, padded) for one, truth in zip(logits.split(1), truths, strict=True)]


def _at_size(logits: Tensor, size: tuple[int, ...], padded: bool) -> NDArray[Any]:
    """Logits (1, 2, s, s) to a mask (H, W); of a padded input, the part of a square of the longest side."""
    whole = (max(size), max(size)) if padded else (size[0], size[1])
    return resize_map(logits, whole).argmax(1)[0, : size[0], : size[1]].numpy()


def episode_counts(prediction: NDArray[Any], truth: NDArray[Any], seconds: float) -> NDArray[np.float64]:
    """The `COUNTS` numbers of one episode; numbers of pixels are exact."""
    both, either = intersection_and_union(prediction, truth)
    return np.array([*both, *either, *rom_rum(region_overlaps(prediction, truth)), seconds], np.float64)
