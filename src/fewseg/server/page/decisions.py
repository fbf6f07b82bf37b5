"""What a person decides about the masks of an image: painted, accepted, confirmed, or that a label is not there."""

from __future__ import annotations

import threading
from typing import Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from fewseg.core.errors import InvalidMask
from fewseg.server.page.media import RENDERING, received_mask
from fewseg.server.page.schemas import AnnotatedBody, CheckedChange, ImageBody, ImageId, LabelPath
from fewseg.server.page.view import ProjectView
from fewseg.server.project.state import CHECKED, InvalidProject

_PATH: Final = "/pictures/{picture}/annotations/{label}"
_PNG_BODY: Final[dict[str, Any]] = {
    "requestBody": {"content": {"image/png": {"schema": {"type": "string", "format": "binary"}}}}
}
_Seen = Annotated[int | None, Query(description="The revision of the mask that was seen or painted on.")]


def add_decisions(routes: APIRouter, view: ProjectView) -> None:
    """The routes of annotations and checks."""
    project, engine = view.project, view.engine
    deciding = threading.Lock()  # what a decision rests on stays until it is saved

    @routes.put(_PATH, response_model=AnnotatedBody, openapi_extra=_PNG_BODY)
    async def annotate(
        request: Request,
        image: ImageId,
        label: LabelPath,
        source: Annotated[Literal["prediction", "nothing"] | None, Query(alias="from")] = None,
        r: _Seen = None,
    ) -> JSONResponse:
        """Save a hand-made mask, which makes the image an example; or the predicted mask as it is; or none at all.

        An empty mask, or `from=nothing`, says that the label is not in the image. A mask that was painted on one that
        somebody else has changed meanwhile (`r`) is merged with theirs; anything else is refused then with 409.
        """
        body = await request.body() if source is None else b""

        def save() -> JSONResponse:
            with RENDERING, deciding:
                if source is not None:
                    _require_seen(view, image, label, r)
                text, merged = None, False
                if source == "nothing":
                    mask = _nothing(view, image)
                elif source == "prediction":
                    mask, text = _predicted(view, image, label), _accepted(view, image, label)
                else:
                    sent = mask = received_mask(body, project.image(image).size)
                    mask = sent if r is None else view.masks.merged(image, label, sent, r)
                    merged = not np.array_equal(mask, sent)
                if mask.any():
                    engine.check_example(mask)
                project.annotate(image, label, mask, text=text)
                return JSONResponse({**(view.describe("picture", image) or {}), "merged": merged})

        return await run_in_threadpool(save)

    @routes.delete(_PATH, response_model=ImageBody)
    def remove_annotation(image: ImageId, label: LabelPath, r: _Seen = None) -> JSONResponse:
        """Delete what was decided: the label is predicted in this image then. Refused where it is not the mask `r`."""
        with deciding:
            if project.annotation(image, label) is not None:
                _require_seen(view, image, label, r)
            project.remove_annotation(image, label)
        return JSONResponse(view.describe("picture", image))

    @routes.put("/pictures/{picture}/checked", response_model=ImageBody)
    def check(image: ImageId, body: CheckedChange) -> JSONResponse:
        """Confirm the image's masks, which stay as they are then; or take that back."""
        if not body.checked:
            project.reopen(image)
            return JSONResponse(view.describe("picture", image))
        with RENDERING, deciding:
            for label, revision in (body.masks or {}).items():
                _require_seen(view, image, int(label) if label.isdecimal() else -1, revision)
            project.check(image, _shown(view, image))
        return JSONResponse(view.describe("picture", image))


def _require_seen(view: ProjectView, image: str, label: int, revision: int | None) -> None:
    """Raise `InvalidProject` where the mask in effect is not the one that a person saw."""
    if revision is not None and view.masks.revision(image, label) != revision:
        raise InvalidProject("the mask has changed since you saw it: look at it again")


def _nothing(view: ProjectView, image: str) -> NDArray[np.bool_]:
    width, height = view.project.image(image).size
    return np.zeros((height, width), np.bool_)


def _accepted(view: ProjectView, image: str, label: int) -> str:
    return f"Accept {view.project.label(label).name} in {view.project.image(image).shown_name}"


def _predicted(view: ProjectView, image: str, label: int) -> NDArray[np.bool_]:
    """The mask (H, W) that was predicted, or confirmed since; raises `InvalidMask` for an empty one."""
    annotation = view.project.annotation(image, label)
    confirmed = annotation is not None and annotation.kind == CHECKED
    mask = view.masks.mask(image, label) if confirmed else view.masks.predicted(image, label)
    if not mask.any():
        name = view.project.label(label).name
        raise InvalidMask(f"nothing was found of {name} here: paint it, or confirm that it is not there")
    return mask


def _shown(view: ProjectView, identifier: str) -> dict[int, NDArray[np.bool_]]:
    """Label id to the mask (H, W) that is shown, of every label that nobody decided about; empty for absent ones."""
    plan = view.engine.plan
    image = view.project.image(identifier)
    thresholds = view.masks.thresholds(plan)
    results = view.masks.results(image, plan)
    shown = {label for label, result in results.items() if result.score >= thresholds[label]}
    return {k: view.masks.predicted(identifier, k) if k in shown else _nothing(view, identifier) for k in results}
