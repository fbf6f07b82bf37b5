"""What presence scores mean, found on validation classes: is the label in the image at all?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fewseg.core.distributed import SINGLE_PROCESS, Processes
from fewseg.core.types import Episode
from fewseg.data.episodes.tensors import collate, episode_tensors
from fewseg.models.methods import FewShotMethod
from fewseg.models.presence import DEFAULT_THRESHOLD, balanced_accuracy, fit_scale, presence_scores, roc_area
from fewseg.training.data import ValidationSet


@torch.no_grad()
def calibrate_presence(
    method: FewShotMethod,
    sets: Sequence[ValidationSet],
    *,
    size: int,
    seed: int,
    amp: bool = False,
    processes: Processes = SINGLE_PROCESS,
) -> dict[str, float]:
    """The scale that makes presence scores probabilities, and how well they tell whether the class is there.

    A label is present where that is more probable than not: the threshold that is best on so few queries is elsewhere
    on others. From the episodes of `queries_with_and_without`, which are divided among the processes; empty where there
    are none.
    """
    method.eval()
    asked = queries_with_and_without(sets, seed)
    if not asked:
        return {}
    scores = torch.zeros(len(asked), 2, dtype=torch.float64)  # here, away; each row filled by one process
    for row in processes.share(range(len(asked))):
        part, *pair = asked[row]
        scores[row] = torch.tensor([_score(method, part, episode, size, amp) for episode in pair], dtype=torch.float64)
    here, away = processes.total(scores).numpy().T
    scale = fit_scale(here, away)
    here, away = (np.array([scale(score) for score in column]) for column in (here, away))
    return {
        "presence_slope": scale.slope,
        "presence_offset": scale.offset,
        "presence_threshold": DEFAULT_THRESHOLD,
        "presence_balanced_accuracy": round(balanced_accuracy(here, away, DEFAULT_THRESHOLD), 3),
        "presence_roc_area": round(roc_area(here, away), 3),
    }


def queries_with_and_without(sets: Sequence[ValidationSet], seed: int) -> list[tuple[ValidationSet, Episode, Episode]]:
    """Every validation episode twice: as it is, and asking in an image that does not hold its class.

    That is the query of an episode of another class; episodes for which there is no such image are left out.
    """
    asked: list[tuple[ValidationSet, Episode, Episode]] = []
    for number, part in enumerate(sets):
        rng = np.random.default_rng([seed, 6, number])
        for episode in part.episodes:
            without = _without(part, episode)
            if without:
                other = Episode(without[int(rng.integers(len(without)))], episode.support, episode.class_id)
                asked.append((part, episode, other))
    return asked


def _without(part: ValidationSet, episode: Episode) -> list[str]:
    """Queries of other classes whose image does not hold the episode's class."""
    held = set(part.dataset.names(episode.class_id))
    names = {other.query for other in part.episodes if other.class_id != episode.class_id} - held
    return sorted(name for name in names if not (part.dataset.mask(name, episode.class_id) == 1).any())


def _score(method: FewShotMethod, part: ValidationSet, episode: Episode, size: int, amp: bool) -> float:
    tensors = collate([episode_tensors(part.dataset, episode, size)]).to(method.device)
    with torch.autocast(method.device.type, torch.bfloat16, enabled=amp):
        logits = method(tensors.query, tensors.images, tensors.masks)
    return presence_scores(logits.float().softmax(1)[0, 1:])[0]
