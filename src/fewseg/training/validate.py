"""Scores on validation episodes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fewseg.core.distributed import SINGLE_PROCESS, Processes
from fewseg.core.types import Episode
from fewseg.evaluation.evaluate import read_ahead
from fewseg.evaluation.metrics.iou import IoUMeter, IoUScores, intersection_and_union
from fewseg.evaluation.scoring import EpisodeBatch, predicted_masks, read_batch
from fewseg.models.methods import FewShotMethod
from fewseg.training.data import ValidationSet


@torch.no_grad()
def validate(
    method: FewShotMethod,
    sets: Sequence[ValidationSet],
    *,
    size: int,
    batch: int,
    amp: bool = False,
    workers: int = 0,
    processes: Processes = SINGLE_PROCESS,
) -> tuple[float, float, dict[str, float]]:
    """mIoU and FB-IoU in per cent, means over the sets, and each set's mIoU; the method is left in eval mode.

    Batches of episodes are divided among the processes; all get the scores of all. `workers` threads read ahead.
    """
    method.eval()
    miou: dict[str, float] = {}
    fb_iou = []
    for number, part in enumerate(sets):
        scores = _scores(method, part, size, batch, amp, workers, processes)
        # Two datasets may share a name: the number keeps both.
        miou[part.name if part.name not in miou else f"{part.name}.{number}"] = scores.miou
        fb_iou.append(scores.fb_iou)
    return sum(miou.values()) / len(miou), sum(fb_iou) / len(fb_iou), miou


def _scores(
    method: FewShotMethod, part: ValidationSet, size: int, batch: int, amp: bool, workers: int, processes: Processes
) -> IoUScores:
    classes = sorted({episode.class_id for episode in part.episodes})
    counts = torch.zeros(len(classes), 2, 2, dtype=torch.int64)  # class, intersection | union, background | foreground

    def of(numbers: range) -> Sequence[Episode]:
        return part.episodes[numbers.start : numbers.stop]

    def read_numbers(numbers: range) -> EpisodeBatch:
        return read_batch(part.dataset, of(numbers), size, part.settings)

    batches = [range(start, start + batch) for start in processes.shard(range(0, len(part.episodes), batch))]
    for numbers, read in zip(batches, read_ahead(read_numbers, batches, workers), strict=True):
        with torch.autocast(method.device.type, torch.bfloat16, enabled=amp):
            logits = method(read.tensors.query, read.tensors.images, read.tensors.masks)
        masks = predicted_masks(logits.float().cpu(), read.truths, part.settings)
        for episode, mask, truth in zip(of(numbers), masks, read.truths, strict=True):
            pair = np.stack(intersection_and_union(mask, truth))
            counts[classes.index(episode.class_id)] += torch.from_numpy(pair)
    meter = IoUMeter()
    for class_id, pair in zip(classes, processes.all_reduce(counts).numpy(), strict=True):
        meter.add_counts(class_id, pair[0], pair[1])
    return meter.scores()
