"""The presence scale, fitted on validation classes: is the label in the image at all?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fewseg.core.distributed import SINGLE_PROCESS, Processes
from fewseg.core.types import Episode
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.models.methods import FewShotMethod
from fewseg.models.presence import balanced_accuracy, fit_scale, presence_scores, recall_threshold, roc_area
from fewseg.training.calibration.episodes import with_negatives
from fewseg.training.data import ValidationSet


@torch.no_grad()
def calibrate_presence(
    method: FewShotMethod,
    sets: Sequence[ValidationSet],
    *,
    seed: int,
    amp: bool = False,
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, float]:
    """The scale that makes presence scores probabilities, and how well they tell whether the class is there.

    The threshold is the one that `recall_threshold` finds: an image that is called absent loses its mask in every
    export. Measured on the episodes of `with_negatives`, which are divided among the processes; empty where there are
    none.
    """
    method.eval()
    pairs = with_negatives(sets, seed)
    if not pairs:
        return {}
    scores = torch.zeros(len(pairs), 2, dtype=torch.float64)  # positive, negative; each row filled by one process
    for row in processes.shard(range(len(pairs))):
        part, *pair = pairs[row]
        scores[row] = torch.tensor([_score(method, part, episode, amp) for episode in pair], dtype=torch.float64)
    positives, negatives = processes.all_reduce(scores).numpy().T
    scale = fit_scale(positives, negatives)
    positives, negatives = (np.array([scale(score) for score in column]) for column in (positives, negatives))
    threshold = recall_threshold(positives)
    return {
        "presence_slope": scale.slope,
        "presence_offset": scale.offset,
        "presence_threshold": threshold,
        "presence_recall": round(float((positives >= threshold).mean()), 3),
        "presence_false_alarms": round(float((negatives >= threshold).mean()), 3),
        "presence_balanced_accuracy": round(balanced_accuracy(positives, negatives, threshold), 3),
        "presence_roc_area": round(roc_area(positives, negatives), 3),
    }


def _score(method: FewShotMethod, part: ValidationSet, episode: Episode, amp: bool) -> float:
    tensors = collate([episode_tensors(part.dataset, episode, method.config.image_size)]).to(method.device)
    with torch.autocast(method.device.type, torch.bfloat16, enabled=amp):
        logits = method(tensors.query, tensors.images, tensors.masks)
    return presence_scores(logits.float().softmax(1)[0, 1:])[0]
