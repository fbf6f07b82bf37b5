"""The project as the page gets it: JSON values, masks, uncertainty maps, suggestions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewseg.inference.active_learning import centred, choose_covering, choose_uncertain
from fewseg.inference.postprocess import full_size_prediction
from fewseg.models.ops.resize import resize
from fewseg.server.engine.cache import ResultSummary
from fewseg.server.engine.engine import Engine
from fewseg.server.engine.model import probabilities
from fewseg.server.engine.plan import Plan, Shot
from fewseg.server.page.media import display_size, shrunk
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.state import Label, NotFound
from fewseg.server.reports import describe_adaptation

UNCERTAINTY_SIDE = 1024
"""Longest side of an uncertainty map, in pixels."""


class ProjectView:
    """Reads a project and the predictions of its engine; safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.project = engine, engine.project

    # ------------------------------------------------------------------------------------------ JSON values

    def describe(self, kind: str, identifier: str | None = None) -> dict[str, Any] | None:
        """The JSON value of an event: `project`, `progress`, or `picture` with its id (None where that is gone)."""
        if kind == "progress":
            return self._progress(self.engine.left)
        if kind == "project":
            return self.whole()
        plan = self.engine.plan
        image = plan.images.get(identifier or "")
        return None if image is None else self.image(image, plan)

    def whole(self) -> dict[str, Any]:
        """The whole project."""
        plan = self.engine.plan
        state = plan.state
        images = [self.image(image, plan) for image in plan.images.values()]
        left = sum(p["state"] in ("waiting", "working") for p in images)
        return {
            "revision": state.revision,
            "labels": [self._label(label, plan) for label in state.labels],
            "pictures": images,
            "progress": self._progress(left),
            "can_undo": bool(state.undo),
            "undo_text": state.undo[-1].text if state.undo else None,
            "can_redo": bool(state.redo),
            "redo_text": state.redo[-1].text if state.redo else None,
            "notices": list(self.project.notices),
        }

    def _progress(self, left: int) -> dict[str, Any]:
        plan = self.engine.plan
        total = sum(p.error is None for p in plan.images.values()) if plan.fingerprints else 0
        left = min(left, total)
        return {"done": total - left, "total": total, "seconds_left": self.engine.seconds_left(left)}

    def label(self, identifier: int) -> dict[str, Any]:
        """A label; raises `NotFound`."""
        return self._label(self.project.label(identifier), self.engine.plan)

    def _label(self, label: Label, plan: Plan) -> dict[str, Any]:
        shots = len(plan.shots.get(label.id, ()))
        return {
            "id": label.id,
            "name": label.name,
            "colour": label.colour,
            "shots": shots,
            "adaptation": self._adaptation(label.id, plan),
        }

    def _adaptation(self, label: int, plan: Plan) -> dict[str, Any] | None:
        """How far a label's fit is and what the one in use brings; None for too few examples, or without fits."""
        state = self.engine.adapter.state(label, plan)
        fit = plan.fits.get(label)
        if state is None or (state == "done" and fit is None):  # it failed
            return None
        return {"state": state, "report": None if fit is None else describe_adaptation(fit.report)}

    def image(self, image: ImageEntry, plan: Plan) -> dict[str, Any]:
        """An image."""
        engine = self.engine
        by_hand = plan.labels_of(image)
        results = self._results(image, plan)
        state, error = self._state(image, plan)
        if error is None:
            annotations = (plan.state.annotations[image.id, label.id] for label in by_hand)
            reasons = (engine.predictor.unusable.get(Shot(image, annotation).key) for annotation in annotations)
            error = next((reason for reason in reasons if reason), None)
        masks = {str(label.id): plan.state.annotations[image.id, label.id].content for label in by_hand}
        return {
            "id": image.id,
            "name": image.shown_name,
            "width": image.width,
            "height": image.height,
            "state": state,
            "error": error,
            "supports": [label.id for label in by_hand],
            "scores": {str(k): round(v.score, 4) for k, v in results.items()} | {str(v.id): 1.0 for v in by_hand},
            "present": {str(k): v.score >= self._threshold(k, plan) for k, v in results.items()}
            | {str(v.id): True for v in by_hand},
            "confidence": round(1 - max(v.uncertainty for v in results.values()), 4) if results else None,
            "masks": masks | {str(k): v.revision for k, v in results.items()},
            "checked": image.id in plan.state.checked,
        }

    def _threshold(self, label: int, plan: Plan) -> float:
        """The score from which a label counts as present."""
        own = plan.presence_threshold(label)
        return self.engine.threshold if own is None else own

    def _state(self, image: ImageEntry, plan: Plan) -> tuple[str, str | None]:
        engine = self.engine
        if image.error is not None:
            return "failed", image.error
        if not plan.fingerprints:
            return "untaught", None
        if image.id in engine.working:
            return "working", None
        wanted = plan.wanted(image)
        results = {label: engine.predictor.results.get((image.id, label)) for label in wanted}
        if all(v is not None and v.key == wanted[k] for k, v in results.items()):
            return "done", None
        failure = engine.predictor.failed.get(image.id)
        if failure is not None and failure[0] == image.identity:
            return "failed", failure[1]
        return "waiting", None

    def _results(self, image: ImageEntry, plan: Plan) -> dict[int, ResultSummary]:
        """Predictions by label, outdated ones included; labels with a hand-made mask are left out."""
        results = ((label, self._result(image, label)) for label in plan.wanted(image))
        return {label: result for label, result in results if result is not None}

    def _result(self, image: ImageEntry, label: int) -> ResultSummary | None:
        """The latest prediction of a label for the file as it is now."""
        result = self.engine.predictor.results.get((image.id, label))
        return result if result is not None and result.key.startswith(image.identity) else None

    # ------------------------------------------------------------------------------------------ masks

    def mask(self, identifier: str, label: int, side: int | None = None) -> NDArray[np.bool_]:
        """The mask (H, W) in effect: hand-made, else the latest prediction; longest side at most `side`.

        Raises `NotFound` where there is none yet.
        """
        image = self.project.image(identifier)
        self.project.label(label)
        size = display_size(image.size, side)
        if self.project.annotation(identifier, label) is not None:
            return shrunk(self.project.mask(identifier, label), size)
        return self.predicted(identifier, label, size)

    def revision(self, identifier: str, label: int) -> int | None:
        """The revision of the mask in effect; None where there is none."""
        annotation = self.project.annotation(identifier, label)
        if annotation is not None:
            return annotation.content
        result = self.engine.predictor.results.get((identifier, label))
        return None if result is None else result.revision

    def predicted(self, identifier: str, label: int, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """The latest predicted mask (H, W), at the image's size or `size` (width, height); raises `NotFound`."""
        image, named = self.project.image(identifier), self.project.label(label)
        coarse = self._coarse(image, label)
        if coarse is None:
            raise NotFound(f"no mask of {named.name} in {image.shown_name} yet: paint an example, or wait for it")
        made = full_size_prediction(probabilities(coarse)[None], ["it"], size or image.size, probabilities=False)
        return made.masks["it"]

    def _coarse(self, image: ImageEntry, label: int) -> NDArray[np.uint8] | None:
        result = self._result(image, label)
        if result is None:
            return None
        coarse = self.engine.cache.coarse(result.key)
        if coarse is None:  # its file is gone
            self.engine.predict_again(image.id, label)
        return coarse

    def uncertainty_map(self, identifier: str) -> NDArray[np.uint8]:
        """Uncertainty map (H, W), uint8: 4p(1 - p) of the most uncertain label, 255 where p is one half.

        At most `UNCERTAINTY_SIDE` pixels on the longest side; all zero where every mask is hand-made. Raises `NotFound`
        before the first prediction.
        """
        image, plan = self.project.image(identifier), self.engine.plan
        size = display_size(image.size, UNCERTAINTY_SIDE)
        predicted = [self._coarse(image, label) for label in self._results(image, plan)]
        whole = size[1], size[0]
        maps = [resize(probabilities(c)[None, None], whole)[0, 0] for c in predicted if c is not None]
        if not maps:
            if plan.labels_of(image) and not plan.wanted(image):
                return np.zeros((size[1], size[0]), np.uint8)
            raise NotFound(f"nothing is predicted for {image.shown_name} yet: paint an example, or wait for it")
        p = torch.stack(maps)
        uncertainty = (4 * p * (1 - p)).amax(0)
        values: NDArray[np.uint8] = (uncertainty * 255).round().to(torch.uint8).numpy()
        return values

    # ------------------------------------------------------------------------------------------ suggestions

    def suggestions(self, n: int, by: str = "coverage") -> list[dict[str, Any]]:
        """`n` images to label next, by uncertainty or coverage of the folder; before the first example by coverage."""
        plan, engine = self.engine.plan, self.engine
        shots = {shot.image.id for shots in plan.shots.values() for shot in shots}
        images = [p for p in plan.images.values() if p.error is None]
        known = [(p, engine.cache.tokens(p.identity + engine.model.fingerprint)) for p in images]
        usable = [(p, t) for p, t in known if t is not None]
        if not usable:  # no image is encoded yet: spread evenly over the folder
            left = [p for p in images if p.id not in shots][:: max(1, len(images) // max(1, n))][:n]
            return [{"id": p.id, "score": 0.0, "reason": "a start: no image has been analysed yet"} for p in left]
        tokens = centred(torch.from_numpy(np.stack([t for _, t in usable])))
        labelled = [i for i, (p, _) in enumerate(usable) if p.id in shots]
        uncertainties = torch.tensor([self._image_uncertainty(p, plan) for p, _ in usable])
        candidates = [i for i, (p, _) in enumerate(usable) if p.id not in shots and p.id not in plan.state.checked]
        if by == "uncertainty" and plan.fingerprints:
            candidates = [i for i in candidates if uncertainties[i] > 0]
            chosen = choose_uncertain(uncertainties, tokens, n, candidates)
            why = [f"uncertain: expected overlap {100 * (1 - float(uncertainties[i])):.0f} %" for i, _ in chosen]
        else:
            chosen = choose_covering(tokens, tokens[labelled].flatten(0, 1), n, candidates)
            why = ["it shows what no example shows yet" for _ in chosen]
        return [
            {"id": usable[i][0].id, "score": round(score, 4), "reason": reason}
            for (i, score), reason in zip(chosen, why, strict=True)
        ]

    def _image_uncertainty(self, image: ImageEntry, plan: Plan) -> float:
        return max((result.uncertainty for result in self._results(image, plan).values()), default=0.0)
