"""The project as the page gets it: JSON values of labels, images and progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fewseg.inference.postprocess import MASK_THRESHOLD
from fewseg.server.engine.cache import ResultSummary
from fewseg.server.engine.engine import Engine
from fewseg.server.engine.plan import Plan, Shot
from fewseg.server.page.masks import Masks
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.state import ABSENT, CHECKED, EXAMPLE, Annotation, Label
from fewseg.server.reports import describe_adaptation


class ProjectView:
    """Reads a project and the predictions of its engine; safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.project, self.masks = engine, engine.project, Masks(engine)

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
        thresholds = self.masks.thresholds(plan)
        images = [self.image(image, plan, thresholds) for image in plan.images.values()]
        left = sum(p["state"] in ("waiting", "working") for p in images)
        return {
            "revision": state.revision,
            "labels": [self._label(label, plan, thresholds) for label in state.labels],
            "exclusive": state.exclusive,
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
        plan = self.engine.plan
        return self._label(self.project.label(identifier), plan, self.masks.thresholds(plan))

    def _label(self, label: Label, plan: Plan, thresholds: Mapping[int, float]) -> dict[str, Any]:
        shots = len(plan.shots.get(label.id, ()))
        return {
            "id": label.id,
            "name": label.name,
            "colour": label.colour,
            "shots": shots,
            "presence_threshold": thresholds[label.id],
            "mask_threshold": MASK_THRESHOLD if label.mask_threshold is None else label.mask_threshold,
            "own_thresholds": label.presence_threshold is not None or label.mask_threshold is not None,
            "adaptation": self._adaptation(label.id, plan),
        }

    def _adaptation(self, label: int, plan: Plan) -> dict[str, Any] | None:
        """How far a label's fit is and what the one in use brings; None for too few examples, or without fits."""
        state = self.engine.adapter.state(label, plan)
        fit = plan.fits.get(label)
        if state is None or (state == "done" and fit is None):  # it failed
            return None
        return {"state": state, "report": None if fit is None else describe_adaptation(fit.report)}

    def image(self, image: ImageEntry, plan: Plan, thresholds: Mapping[int, float] | None = None) -> dict[str, Any]:
        """An image; `thresholds` are those of the plan, where they are known."""
        limits = self.masks.thresholds(plan) if thresholds is None else thresholds
        decided, results = plan.decided(image), self.masks.results(image, plan)
        state, error = self._state(image, plan)
        if error is None:
            shots = (Shot(image, annotation).key for annotation in decided.values())
            error = next((why for key in shots if (why := self.engine.predictor.unusable.get(key))), None)
        present = {k: v.kind != ABSENT for k, v in decided.items()} | {
            k: v.score >= limits[k] for k, v in results.items()
        }
        confidences = {k: round(1 - v.uncertainty, 4) for k, v in results.items()}
        scores = {k: float(v.kind != ABSENT) for k, v in decided.items()} | {
            k: round(v.score, 4) for k, v in results.items()
        }
        revisions = {k: self.masks.revision_of(image, k, plan, limits) for k in (*decided, *results)}
        return {
            "id": image.id,
            "name": image.shown_name,
            "width": image.width,
            "height": image.height,
            "state": state,
            "error": error,
            "supports": [k for k, v in decided.items() if v.kind == EXAMPLE],
            "confirmed": [k for k, v in decided.items() if v.kind == CHECKED],
            "absent": [k for k, v in decided.items() if v.kind == ABSENT],
            "scores": _by_label(scores),
            "present": _by_label(present),
            "confidences": _by_label(confidences),
            "confidence": min((confidences[k] for k in results if present[k]), default=None),
            "areas": _by_label(self._areas(image, decided, results)),
            "masks": _by_label(revisions),
            "checked": _is_checked(image, plan, [k for k in results if present[k]]),
        }

    def _areas(
        self, image: ImageEntry, decided: Mapping[int, Annotation], results: Mapping[int, ResultSummary]
    ) -> dict[int, float]:
        """Label id to the share of the image that its mask covers, where that is known."""
        pixels = max(1, image.width * image.height)
        areas = {k: round(v.area / pixels, 6) for k, v in decided.items() if v.area >= 0}
        return areas | {k: round(v.area, 6) for k, v in results.items()}

    def _state(self, image: ImageEntry, plan: Plan) -> tuple[str, str | None]:
        engine = self.engine
        if image.error is not None:
            return "failed", image.error
        if not plan.fingerprints:
            return "untaught", None
        if image.id in engine.working:
            return "working", None
        wanted = plan.undecided(image)
        results = {label: engine.predictor.results.get((image.id, label)) for label in wanted}
        if all(v is not None and v.key == wanted[k] for k, v in results.items()):
            return "done", None
        failure = engine.predictor.failed.get(image.id)
        if failure is not None and failure[0] == image.identity:
            return "failed", failure[1]
        return "waiting", None


def _by_label(values: Mapping[int, Any]) -> dict[str, Any]:
    return {str(label): value for label, value in values.items()}


def _is_checked(image: ImageEntry, plan: Plan, shown: Sequence[int]) -> bool:
    """Whether a person decided about the image; not where a mask is `shown` that nobody did, as of a new label."""
    decided = plan.decided(image).values()
    if image.id in plan.state.checked and all(annotation.kind == EXAMPLE for annotation in decided):
        return True  # it was checked before there were any masks, or by version 0.1, which kept none
    return bool(decided) and not shown
