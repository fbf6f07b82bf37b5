"""Which images to label next, and why, in the words of a person who labels.

Measured on novel classes (docs/suggestions.md), images that bring the folder nearest to something labelled help most,
if they show the label at all. So each image's gain in coverage is weighted by how probable it is that a label is in it,
and by how doubtful its mask is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from fewseg.inference.active_learning import centred, choose_covering, choose_uncertain
from fewseg.server.engine.plan import Plan
from fewseg.server.page.masks import Masks
from fewseg.server.project.images import ImageEntry

POSSIBLE: Final = 0.5
"""Share of the presence threshold from which an image may show the label."""

DOUBTFUL: Final = 0.4
"""Uncertainty from which a mask is called doubtful."""


@dataclass(frozen=True)
class _Guess:
    """What is known of the label that an image most probably shows."""

    score: float
    threshold: float
    uncertainty: float
    name: str

    @property
    def possible(self) -> bool:
        return self.score >= POSSIBLE * self.threshold

    @property
    def weight(self) -> float:
        """How much an example of this image is worth beside its coverage."""
        return min(1.0, self.score / max(self.threshold, 1e-6)) * (0.5 + self.uncertainty)

    @property
    def reason(self) -> str:
        if self.score < self.threshold:
            return f"may show {self.name}: paint it, or say that it is not here"
        if self.uncertainty >= DOUBTFUL:
            return f"{self.name} is found, but its mask is doubtful"
        return f"{self.name} looks unlike the examples here"


def suggestions(masks: Masks, n: int, by: str = "usefulness") -> list[dict[str, Any]]:
    """`n` images to label next, the most useful first; before the first example those that cover the folder.

    `by` may be `coverage` or `uncertainty` alone, too.
    """
    engine, plan = masks.engine, masks.engine.plan
    images = [p for p in plan.images.values() if p.error is None]
    known = [(p, engine.cache.tokens(p.identity + engine.model.fingerprint)) for p in images]
    usable = [(p, t) for p, t in known if t is not None]
    open_images = [p for p in images if not plan.decided(p) and p.id not in plan.state.checked]
    if not usable:  # no image is encoded yet: spread evenly over the folder
        left = open_images[:: max(1, len(images) // max(1, n))][:n]
        return [{"id": p.id, "score": 0.0, "reason": "a start: no image has been analysed yet"} for p in left]
    tokens = centred(torch.from_numpy(np.stack([t for _, t in usable])))
    shots = {shot.image.id for shots in plan.shots.values() for shot in shots}
    labelled = tokens[[i for i, (p, _) in enumerate(usable) if p.id in shots]].flatten(0, 1)
    free = {p.id for p in open_images}
    guesses = _guesses(masks, {i: p for i, (p, _) in enumerate(usable) if p.id in free}, plan)
    if by == "uncertainty" and guesses:
        doubts = torch.tensor([guesses[i].uncertainty if i in guesses else 0.0 for i in range(len(usable))])
        chosen = choose_uncertain(doubts, tokens, n, [i for i in guesses if guesses[i].uncertainty > 0])
    elif by == "coverage" or not any(guess.possible for guess in guesses.values()):
        chosen = choose_covering(tokens, labelled, n, [i for i, (p, _) in enumerate(usable) if p.id in free])
        reason = "nothing like this is among the examples yet"
        return [{"id": usable[i][0].id, "score": round(gain, 4), "reason": reason} for i, gain in chosen]
    else:
        possible = [i for i, guess in guesses.items() if guess.possible]
        covering = choose_covering(tokens, labelled, 4 * n, possible)
        values = [(i, (gain + 1e-6) * guesses[i].weight) for i, gain in covering]
        chosen = sorted(values, key=lambda pair: -pair[1])[:n]
    return [{"id": usable[i][0].id, "score": round(v, 4), "reason": guesses[i].reason} for i, v in chosen]


def _guesses(masks: Masks, candidates: Mapping[int, ImageEntry], plan: Plan) -> dict[int, _Guess]:
    """For every candidate with predictions the label that is nearest to its threshold, or above it most."""
    thresholds = masks.thresholds(plan)
    names = {label.id: label.name for label in plan.state.labels}
    guesses = {}
    for i, image in candidates.items():
        found = masks.results(image, plan)
        each = [_Guess(r.score, thresholds[k], r.uncertainty, names[k]) for k, r in found.items()]
        if each:
            guesses[i] = max(each, key=lambda guess: guess.score / max(guess.threshold, 1e-6))
    return guesses
