"""Scores on validation episodes, at the model's input size."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fewseg.episodes.tensors import collate, episode_tensors
from fewseg.methods import FewShotMethod
from fewseg.metrics.iou import IoUMeter
from fewseg.training.data import ValidationSet


@torch.no_grad()
def validate(
    method: FewShotMethod, sets: Sequence[ValidationSet], *, size: int, batch: int, amp: bool = False
) -> tuple[float, float, dict[str, float]]:
    """mIoU and FB-IoU in per cent, means over the sets, and each set's mIoU; the method is left in eval mode."""
    method.eval()
    miou: dict[str, float] = {}
    fb_iou = []
    for number, part in enumerate(sets):
        meter = IoUMeter()
        for start in range(0, len(part.episodes), batch):
            episodes = part.episodes[start : start + batch]
            tensors = collate([episode_tensors(part.dataset, e, size) for e in episodes])
            with torch.autocast(method.device.type, torch.bfloat16, enabled=amp):
                logits = method(tensors.query, tensors.images, tensors.masks)
            predicted = logits.float().argmax(1).cpu().numpy()
            for episode, guess, truth in zip(episodes, predicted, tensors.query_mask.numpy(), strict=True):
                meter.add(episode.class_id, guess, truth)
        scores = meter.scores()
        # Two datasets may share a name: the number keeps both.
        miou[part.name if part.name not in miou else f"{part.name}.{number}"] = scores.miou
        fb_iou.append(scores.fb_iou)
    return sum(miou.values()) / len(miou), sum(fb_iou) / len(fb_iou), miou
