"""The project as the page sees it: JSON values, masks and maps of doubt, suggestions."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewseg.inference.active_learning import centred, choose_covering, choose_uncertain
from fewseg.inference.postprocess import full_size_prediction
from fewseg.models.ops.resize import resize
from fewseg.server.engine.cache import Found
from fewseg.server.engine.engine import Engine
from fewseg.server.engine.model import probabilities
from fewseg.server.engine.plan import Plan, Shot
from fewseg.server.page.media import display_size, shrunk
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.state import NotFound

DOUBT_SIDE = 1024
"""Longest side of a map of doubt."""


class ProjectView:
    """Reads a project and what its engine found; safe to use from several threads."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.project = engine, engine.project

    # ------------------------------------------------------------------------------------------ JSON values

    def describe(self, kind: str, identifier: str | None = None) -> dict[str, Any] | None:
        """The value of an event: `project`, `progress`, or `picture` with its id (None where that is gone)."""
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
            "labels": [
                {"id": v.id, "name": v.name, "colour": v.colour, "shots": len(plan.shots.get(v.id, ()))}
                for v in state.labels
            ],
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
        label, plan = self.project.label(identifier), self.engine.plan
        shots = len(plan.shots.get(identifier, ()))
        return {"id": label.id, "name": label.name, "colour": label.colour, "shots": shots}

    def image(self, image: ImageEntry, plan: Plan) -> dict[str, Any]:
        """An image."""
        engine = self.engine
        by_hand = plan.labels_of(image)
        found = self._found(image, plan)
        state, error = self._state(image, plan)
        if error is None:
            marks = (plan.state.annotations[image.id, label.id] for label in by_hand)
            said = (engine.finder.unusable.get(Shot(image, mark).key) for mark in marks)
            error = next((text for text in said if text), None)
        masks = {str(label.id): plan.state.annotations[image.id, label.id].content for label in by_hand}
        return {
            "id": image.id,
            "name": image.shown_name,
            "width": image.width,
            "height": image.height,
            "state": state,
            "error": error,
            "supports": [label.id for label in by_hand],
            "scores": {str(k): round(v.score, 4) for k, v in found.items()} | {str(v.id): 1.0 for v in by_hand},
            "present": {str(k): v.score >= engine.threshold for k, v in found.items()}
            | {str(v.id): True for v in by_hand},
            "confidence": round(1 - max(v.doubt for v in found.values()), 4) if found else None,
            "masks": masks | {str(k): v.revision for k, v in found.items()},
            "checked": image.id in plan.state.checked,
        }

    def _state(self, image: ImageEntry, plan: Plan) -> tuple[str, str | None]:
        engine = self.engine
        if image.error is not None:
            return "failed", image.error
        if not plan.fingerprints:
            return "untaught", None
        if image.id in engine.working:
            return "working", None
        wanted = plan.wanted(image)
        shown = {label: engine.finder.shown.get((image.id, label)) for label in wanted}
        if all(v is not None and v.key == wanted[k] for k, v in shown.items()):
            return "done", None
        failure = engine.finder.failed.get(image.id)
        if failure is not None and failure[0] == image.identity:
            return "failed", failure[1]
        return "waiting", None

    def _found(self, image: ImageEntry, plan: Plan) -> dict[int, Found]:
        """What the model found, by label; results that are about to be replaced included, hand-made masks not."""
        found = {}
        for label in plan.wanted(image):
            shown = self.engine.finder.shown.get((image.id, label))
            if shown is not None and shown.key.startswith(image.identity):
                found[label] = shown
        return found

    # ------------------------------------------------------------------------------------------ masks

    def mask(self, identifier: str, label: int, side: int | None = None) -> NDArray[np.bool_]:
        """The mask (H, W) that counts: hand-made, else what the model found last; longest side at most `side`.

        Raises `NotFound` where there is none yet.
        """
        image = self.project.image(identifier)
        self.project.label(label)
        size = display_size(image.size, side)
        if self.project.annotation(identifier, label) is not None:
            return shrunk(self.project.mask(identifier, label), size)
        return self.predicted(identifier, label, size)

    def revision(self, identifier: str, label: int) -> int | None:
        """Of the mask that counts; None where there is none."""
        annotation = self.project.annotation(identifier, label)
        if annotation is not None:
            return annotation.content
        found = self.engine.finder.shown.get((identifier, label))
        return None if found is None else found.revision

    def predicted(self, identifier: str, label: int, size: tuple[int, int] | None = None) -> NDArray[np.bool_]:
        """What the model found last, at the image's size or `size` (width, height); raises `NotFound`."""
        image, named = self.project.image(identifier), self.project.label(label)
        coarse = self._coarse(image, label)
        if coarse is None:
            raise NotFound(f"no mask of {named.name} in {image.shown_name} yet: paint an example, or wait for it")
        made = full_size_prediction(
            probabilities(coarse)[None], ["it"], size or image.size, self.engine.threshold, probabilities=False
        )
        return made.masks["it"]

    def _coarse(self, image: ImageEntry, label: int) -> NDArray[np.uint8] | None:
        shown = self.engine.finder.shown.get((image.id, label))
        if shown is None or not shown.key.startswith(image.identity):
            return None
        coarse = self.engine.cache.coarse(shown.key)
        if coarse is None:  # its file is gone: found again
            self.engine.forget(image.id, label)
        return coarse

    def doubt(self, identifier: str) -> NDArray[np.uint8]:
        """How unsure each pixel is, 0 to 255, of the least sure label: 255 where the probability is one half.

        At most `DOUBT_SIDE` pixels on the longest side; all zero where every mask is hand-made. Raises `NotFound` where
        nothing was found yet.
        """
        image, plan = self.project.image(identifier), self.engine.plan
        size = display_size(image.size, DOUBT_SIDE)
        found = [self._coarse(image, label) for label in self._found(image, plan)]
        maps = [probabilities(coarse) for coarse in found if coarse is not None]
        if not maps:
            if plan.labels_of(image) and not plan.wanted(image):
                return np.zeros((size[1], size[0]), np.uint8)
            raise NotFound(f"nothing was found in {image.shown_name} yet: paint an example, or wait for it")
        p = torch.stack(maps)
        doubt = resize((4 * p * (1 - p)).amax(0)[None, None], (size[1], size[0]))[0, 0]
        values: NDArray[np.uint8] = (doubt * 255).round().to(torch.uint8).numpy()
        return values

    # ------------------------------------------------------------------------------------------ suggestions

    def suggestions(self, n: int, by: str = "coverage") -> list[dict[str, Any]]:
        """`n` images to label next; without any example, those that show most of what the folder holds."""
        plan, engine = self.engine.plan, self.engine
        shots = {shot.image.id for shots in plan.shots.values() for shot in shots}
        images = [p for p in plan.images.values() if p.error is None]
        known = [(p, engine.cache.tokens(p.identity + engine.model.fingerprint)) for p in images]
        usable = [(p, t) for p, t in known if t is not None]
        if not usable:  # nothing has been looked at yet: evenly over the folder
            left = [p for p in images if p.id not in shots][:: max(1, len(images) // max(1, n))][:n]
            return [{"id": p.id, "score": 0.0, "reason": "a start: nothing has been looked at yet"} for p in left]
        tokens = centred(torch.from_numpy(np.stack([t for _, t in usable])))
        labelled = [i for i, (p, _) in enumerate(usable) if p.id in shots]
        doubts = torch.tensor([self._doubt_of(p, plan) for p, _ in usable])
        candidates = [i for i, (p, _) in enumerate(usable) if p.id not in shots and p.id not in plan.state.checked]
        if by == "uncertainty" and plan.fingerprints:
            candidates = [i for i in candidates if doubts[i] > 0]
            chosen = choose_uncertain(doubts, tokens, n, candidates)
            why = [f"the model is unsure: expected overlap {100 * (1 - float(doubts[i])):.0f} %" for i, _ in chosen]
        else:
            chosen = choose_covering(tokens, tokens[labelled].flatten(0, 1), n, candidates)
            why = ["it shows what no example shows yet" for _ in chosen]
        return [
            {"id": usable[i][0].id, "score": round(score, 4), "reason": reason}
            for (i, score), reason in zip(chosen, why, strict=True)
        ]

    def _doubt_of(self, image: ImageEntry, plan: Plan) -> float:
        return max((found.doubt for found in self._found(image, plan).values()), default=0.0)
