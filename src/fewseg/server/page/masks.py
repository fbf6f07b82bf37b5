"""The masks of a project's images as they are shown, confirmed and exported: one rule for all of them.

What a person decided counts; else the latest prediction, cut at the label's own threshold. Where labels exclude each
other, a pixel belongs to what was painted, else to the label that surpasses its threshold most.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewseg.inference.postprocess import MASK_THRESHOLD, full_size_prediction
from fewseg.models.ops.resize import resize
from fewseg.models.presence import task_threshold
from fewseg.server.engine.cache import ResultSummary
from fewseg.server.engine.engine import Engine
from fewseg.server.engine.model import probabilities
from fewseg.server.engine.plan import Plan
from fewseg.server.page.media import display_size, shrunk
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.state import ABSENT, CHECKED, Label, NotFound

UNCERTAINTY_SIDE: Final = 1024
"""Longest side of an uncertainty map, in pixels."""


class Masks:
    """Reads what a person decided and what the engine predicted; safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.project = engine, engine.project

    # ------------------------------------------------------------------------------------------ presence

    def thresholds(self, plan: Plan) -> dict[int, float]:
        """Label id to the score from which it counts as present.

        That is what the person set, else what was fitted to the label's examples, else the model's; the last two are
        moved to where fewest of the images that were checked for the label are told wrong.
        """
        positives, negatives = defaultdict[int, list[float]](list), defaultdict[int, list[float]](list)
        for place, annotation in plan.state.annotations.items():
            result = self.engine.predictor.results.get(place)
            if result is not None and annotation.kind in (CHECKED, ABSENT):
                (negatives if annotation.kind == ABSENT else positives)[place[1]].append(result.score)
        found = {}
        for label in plan.state.labels:
            own = plan.presence_threshold(label.id)
            base = self.engine.threshold if own is None else own
            if positives[label.id] and negatives[label.id]:  # negatives alone would hide every mask
                base = task_threshold(positives[label.id], negatives[label.id], base)
            found[label.id] = base if label.presence_threshold is None else label.presence_threshold
        return found

    def results(self, image: ImageEntry, plan: Plan) -> dict[int, ResultSummary]:
        """Predictions by label, outdated ones included, of labels that nobody decided about in the image."""
        results = ((label, self.result(image, label)) for label in plan.undecided(image))
        return {label: result for label, result in results if result is not None}

    def result(self, image: ImageEntry, label: int) -> ResultSummary | None:
        """The latest prediction of a label for the file as it is now."""
        result = self.engine.predictor.results.get((image.id, label))
        return result if result is not None and result.key.startswith(image.identity) else None

    def _rivals(self, image: ImageEntry, label: int, plan: Plan, thresholds: Mapping[int, float]) -> dict[int, str]:
        """Label id to the result of other labels that are shown, where a pixel can have one of them only."""
        if not plan.state.exclusive:
            return {}
        results = self.results(image, plan)
        own = results.get(label)
        if own is None or own.score < thresholds[label]:  # it is not shown, or only on request
            return {}
        return {k: v.key for k, v in results.items() if k != label and v.score >= thresholds[k]}

    def _painted(self, image: ImageEntry, label: int, plan: Plan) -> dict[int, str]:
        """Label id to the digest of other labels' masks by hand, where a pixel can have one label only."""
        if not plan.state.exclusive:
            return {}
        return {k: v.digest for k, v in plan.decided(image).items() if k != label and v.kind != ABSENT}

    # ------------------------------------------------------------------------------------------ masks

    def mask(self, identifier: str, label: int, side: int | None = None) -> NDArray[np.bool_]:
        """The mask (H, W) in effect: what a person decided, else the latest prediction; longest side at most `side`.

        Raises `NotFound` where there is none yet.
        """
        image = self.project.image(identifier)
        self.project.label(label)
        size = display_size(image.size, side)
        if self.project.annotation(identifier, label) is not None:
            return shrunk(self.project.mask(identifier, label), size)
        return self.predicted(identifier, label, size)

    def revision(self, identifier: str, label: int) -> int | None:
        """A number that changes with the mask in effect; None where there is none."""
        plan = self.engine.plan
        image = plan.images.get(identifier)
        return None if image is None else self.revision_of(image, label, plan, self.thresholds(plan))

    def revision_of(self, image: ImageEntry, label: int, plan: Plan, thresholds: Mapping[int, float]) -> int | None:
        """The same for a plan and its thresholds."""
        annotation = plan.state.annotations.get((image.id, label))
        if annotation is not None:
            return annotation.content
        result = self.result(image, label)
        if result is None:
            return None
        cuts = {own.id: _cut(own) for own in plan.state.labels}
        others = self._rivals(image, label, plan, thresholds)
        parts = [f"{key} {cuts[other]}" for other, key in others.items()]
        parts += self._painted(image, label, plan).values()
        if not parts and cuts.get(label, MASK_THRESHOLD) == MASK_THRESHOLD:
            return result.revision
        digest = hashlib.sha256(ascii([result.key, cuts.get(label), *sorted(parts)]).encode()).hexdigest()
        return int(digest[:12], 16)

    def predicted(self, identifier: str, label: int, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """The latest predicted mask (H, W), at the image's size or `size` (width, height); raises `NotFound`."""
        image, named, plan = self.project.image(identifier), self.project.label(label), self.engine.plan
        size = size or image.size
        coarse = self._coarse(image, label)
        if coarse is None:
            raise NotFound(f"no mask of {named.name} in {image.shown_name} yet: paint an example, or wait for it")
        above = {label: probabilities(coarse) - _cut(named)}
        for other in self._rivals(image, label, plan, self.thresholds(plan)):
            rival = self._coarse(image, other)
            if rival is not None:
                above[other] = probabilities(rival) - _cut(self.project.label(other))
        names = [str(each) for each in sorted(above)]  # of equals the first label wins, whichever is asked for
        stacked = _stacked([above[each] for each in sorted(above)]) + MASK_THRESHOLD
        made = full_size_prediction(stacked, names, size, probabilities=False)
        mask: NDArray[np.bool_] = made.label_map == names.index(str(label)) + 1
        for other in self._painted(image, label, plan):
            mask = mask & ~shrunk(self.project.mask(identifier, other), size)
        return mask

    def _coarse(self, image: ImageEntry, label: int) -> NDArray[np.uint8] | None:
        result = self.result(image, label)
        if result is None:
            return None
        coarse = self.engine.cache.coarse(result.key)
        if coarse is None:  # its file is gone
            self.engine.predict_again(image.id, label)
        return coarse

    def merged(self, identifier: str, label: int, mask: NDArray[np.bool_], base: int) -> NDArray[np.bool_]:
        """The mask (H, W) with what somebody else painted since the mask of revision `base`, which it was made from.

        Of a mask that is no longer known nothing painted is lost: both are joined.
        """
        image, current = self.project.image(identifier), self.project.annotation(identifier, label)
        if current is None or current.content == base:
            return mask
        theirs = self.project.read(identifier, current)
        state = self.project.state
        history = (change.annotations.get((identifier, label)) for change in (*state.undo, *state.redo))
        before = next((a for a in history if a is not None and a.content == base), None)
        if before is not None:
            start = self.project.read(identifier, before)
        else:
            result = self.result(image, label)
            known = result is not None and result.revision == base
            start = self.predicted(identifier, label) if known else mask & theirs
        return np.where(mask != start, mask, theirs)

    def uncertainty_map(self, identifier: str, label: int | None = None) -> NDArray[np.uint8]:
        """Uncertainty map (H, W), uint8: 4p(1 - p) of a label, or of the most uncertain one that is present.

        255 where p is one half; at most `UNCERTAINTY_SIDE` pixels on the longest side; all zero where every mask is
        decided or absent. Raises `NotFound` before the first prediction.
        """
        image, plan = self.project.image(identifier), self.engine.plan
        size = display_size(image.size, UNCERTAINTY_SIDE)
        results, thresholds = self.results(image, plan), self.thresholds(plan)
        if not results and (plan.undecided(image) or not plan.decided(image)):
            raise NotFound(f"nothing is predicted for {image.shown_name} yet: paint an example, or wait for it")
        wanted = [k for k, v in results.items() if k == label or (label is None and v.score >= thresholds[k])]
        whole = size[1], size[0]
        maps = [
            resize(probabilities(c)[None, None], whole)[0, 0]
            for k in wanted
            if (c := self._coarse(image, k)) is not None
        ]
        if not maps:
            return np.zeros(whole, np.uint8)
        p = torch.stack(maps)
        uncertainty = (4 * p * (1 - p)).amax(0)
        values: NDArray[np.uint8] = (uncertainty * 255).round().to(torch.uint8).numpy()
        return values


def _cut(label: Label) -> float:
    """The probability from which a pixel belongs to the label."""
    return MASK_THRESHOLD if label.mask_threshold is None else label.mask_threshold


def _stacked(maps: Sequence[Tensor]) -> Tensor:
    """Maps (h, w), which differ in size where labels are adapted, at the largest size: (n, h, w)."""
    shape = max(((each.shape[0], each.shape[1]) for each in maps), key=lambda shape: shape[0] * shape[1])
    return torch.stack([each if each.shape == shape else resize(each[None, None], shape)[0, 0] for each in maps])
