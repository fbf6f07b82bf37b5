"""Scores on validation episodes, at the model's input size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fewseg.core.distributed import SINGLE_PROCESS, Processes
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.evaluation.metrics.iou import IoUMeter, IoUScores, intersection_and_union
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
    processes: Processes = SINGLE_PROCESS,
) -> tuple[float, float, dict[str, float]]:
    """mIoU and FB-IoU in per cent, means over the sets, and each set's mIoU; the method is left in eval mode.

    Batches of episodes are divided among the processes; all get the scores of all.
    """
    method.eval()
    miou: dict[str, float] = {}
    fb_iou = []
    for number, part in enumerate(sets):
        scores = _scores(method, part, size, batch, amp, processes)
        # Two datasets may share a name: the number keeps both.
        miou[part.name if part.name not in miou else f"{part.name}.{number}"] = scores.miou
        fb_iou.append(scores.fb_iou)
    return sum(miou.values()) / len(miou), sum(fb_iou) / len(fb_iou), miou


def _scores(
    method: FewShotMethod, part: ValidationSet, size: int, batch: int, amp: bool, processes: Processes
) -> IoUScores:
    classes = sorted({episode.class_id for episode in part.episodes})
    counts = torch.zeros(len(classes), 2, 2, dtype=torch.int64)  # class, intersection | union, background | foreground
    for start in processes.shard(range(0, len(part.episodes), batch)):
        episodes = part.episodes[start : start + batch]
        tensors = collate([episode_tensors(part.dataset, e, size) for e in episodes])
        with torch.autocast(method.device.type, torch.bfloat16, enabled=amp):
            logits = method(tensors.query, tensors.images, tensors.masks)
        predicted = logits.float().argmax(1).cpu().numpy()
        both, either = intersection_and_union(predicted, tensors.query_mask.numpy())
        for episode, pair in zip(episodes, torch.from_numpy(np.stack([both, either], 1)), strict=True):
            counts[classes.index(episode.class_id)] += pair
    meter = IoUMeter()
    for class_id, pair in zip(classes, processes.all_reduce(counts).numpy(), strict=True):
        meter.add_counts(class_id, pair[0], pair[1])
    return meter.scores()
