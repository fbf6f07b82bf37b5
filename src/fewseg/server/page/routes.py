"""The routes of the annotation page; `schemas` has the bodies of their requests and responses."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from fewseg.server.api_errors import ApiError, error_responses
from fewseg.server.bodies import JsonRoute
from fewseg.server.engine.assist import Assistant
from fewseg.server.engine.engine import Engine
from fewseg.server.page import exports as project_exports
from fewseg.server.page import imports
from fewseg.server.page.decisions import add_decisions
from fewseg.server.page.media import RENDERING, SIDES, jpeg, png
from fewseg.server.page.schemas import (
    AssistRequest,
    ImageId,
    LabelBody,
    LabelChange,
    LabelId,
    LabelPath,
    NewLabel,
    ProjectBody,
    ProjectChange,
    SuggestionBody,
    VisibleImages,
)
from fewseg.server.page.suggestions import suggestions as suggestions_of
from fewseg.server.page.view import ProjectView
from fewseg.server.project.state import InvalidProject, NotFound

_KEPT_SIDE: Final = 640
"""Longest side up to which images are cached on the disk: the gallery asks for them again and again."""

Side = Annotated[int, Query(ge=SIDES[0], le=SIDES[1], description="Longest side, at most.")]
_JPEG: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"image/jpeg": {}}, "description": "The image."}}
_PNG: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"image/png": {}}, "description": "8-bit greyscale."}}


class _Route(JsonRoute):
    """Turns the errors of a project into HTTP errors: 404 and 409."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        inner = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                return await inner(request)
            except NotFound as error:
                raise ApiError(404, str(error)) from error
            except InvalidProject as error:
                raise ApiError(409, str(error)) from error

        return handler


def router(engine: Engine) -> APIRouter:
    """The routes, to be included below `/api/v1`; the caller starts and closes the engine."""
    routes = APIRouter(tags=["project"], route_class=_Route, responses=error_responses(404, 409, 500))
    view = ProjectView(engine)
    for add in (
        _add_project,
        _add_labels,
        _add_images,
        add_decisions,
        _add_assistance,
        project_exports.add_routes,
        imports.add_routes,
    ):
        add(routes, view)
    return routes


def _add_project(routes: APIRouter, view: ProjectView) -> None:
    project, engine = view.project, view.engine

    @routes.get("/project", response_model=ProjectBody)
    def get_project() -> JSONResponse:
        """The whole project: labels, images, progress."""
        return JSONResponse(view.whole())

    @routes.patch("/project", response_model=ProjectBody)
    def change_project(body: ProjectChange) -> JSONResponse:
        """Change the project's settings."""
        project.set_exclusive(body.exclusive)
        return JSONResponse(view.whole())

    @routes.post("/undo", response_model=ProjectBody)
    def undo() -> JSONResponse:
        """Undo the last change of a label or a hand-made mask; the history survives restarts."""
        project.undo()
        return JSONResponse(view.whole())

    @routes.post("/redo", response_model=ProjectBody)
    def redo() -> JSONResponse:
        """Redo the change that was undone last."""
        project.redo()
        return JSONResponse(view.whole())

    @routes.post("/rescan", response_model=ProjectBody)
    def rescan() -> JSONResponse:
        """Scan the folder for new images, and retry failed ones."""
        project.rescan()
        engine.retry()
        return JSONResponse(view.whole())

    @routes.post("/visible", status_code=204)
    def set_visible(body: VisibleImages) -> None:
        """Set the images on screen, in order: they are segmented first."""
        engine.set_visible(body.ids)

    @routes.get("/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
    async def events() -> StreamingResponse:
        """Server-sent events `project`, `picture` and `progress`, each with the value that changed."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(engine.events.listen(view.describe), media_type="text/event-stream", headers=headers)


def _add_labels(routes: APIRouter, view: ProjectView) -> None:
    project = view.project

    @routes.post("/labels", response_model=LabelBody, status_code=201)
    def add_label(body: NewLabel) -> JSONResponse:
        """Add a label."""
        return JSONResponse(view.label(project.add_label(body.name, body.colour).id), 201)

    @routes.patch("/labels/{label}", response_model=LabelBody)
    def change_label(label: LabelPath, body: LabelChange) -> JSONResponse:
        """Rename or recolour a label, or set its thresholds; masks made by hand stay."""
        before = project.change_label(label, body.name, body.colour)
        if body.default_thresholds:
            project.set_thresholds(label, None, None)
        elif body.presence_threshold is not None or body.mask_threshold is not None:
            presence = before.presence_threshold if body.presence_threshold is None else body.presence_threshold
            mask = before.mask_threshold if body.mask_threshold is None else body.mask_threshold
            project.set_thresholds(label, presence, mask)
        return JSONResponse(view.label(label))

    @routes.delete("/labels/{label}", status_code=204)
    def delete_label(label: LabelPath) -> None:
        """Delete a label and its masks; undo brings them back."""
        project.remove_label(label)


def _add_images(routes: APIRouter, view: ProjectView) -> None:
    project, engine, masks = view.project, view.engine, view.masks

    @routes.get("/pictures/{picture}/image", response_class=Response, responses=_JPEG)
    def get_image(request: Request, image: ImageId, side: Side = 1600) -> Response:
        """The image as a JPEG, upright."""
        file = project.image(image)
        tag = f'"{file.identity}-{side}"'
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers={"ETag": tag})
        if side <= _KEPT_SIDE and side % 32 == 0:
            content = engine.cache.file(f"{file.identity}-{side}.jpg", lambda: jpeg(file, side))
        else:
            content = jpeg(file, side)
        return Response(content, media_type="image/jpeg", headers={"ETag": tag, "Cache-Control": "private, no-cache"})

    @routes.get("/pictures/{picture}/masks/{label}", response_class=Response, responses=_PNG)
    def get_mask(
        image: ImageId,
        label: LabelPath,
        r: Annotated[int | None, Query(description="The mask's revision: with it the response may be cached.")] = None,
        side: Side | None = None,
    ) -> Response:
        """The mask in effect, 0 and 255: hand-made, else predicted; at the image's size unless `side` is smaller."""
        before = masks.revision(image, label)
        with RENDERING:
            content = png(masks.mask(image, label, side))
        # Cached under another revision's address, the mask would come back with undo.
        cachable = r is not None and before == r == masks.revision(image, label)
        caching = "private, max-age=31536000, immutable" if cachable else "private, no-cache"
        return Response(content, media_type="image/png", headers={"Cache-Control": caching})

    @routes.get("/pictures/{picture}/uncertainty", response_class=Response, responses=_PNG)
    def get_uncertainty(image: ImageId, label: LabelId | None = None) -> Response:
        """Uncertainty map of a label, or of those present: 255 where the probability is one half, 0 for 0 or 1."""
        content = png(masks.uncertainty_map(image, label))
        return Response(content, media_type="image/png", headers={"Cache-Control": "no-store"})


def _add_assistance(routes: APIRouter, view: ProjectView) -> None:
    project, assistant = view.project, Assistant(view.engine)

    @routes.post("/pictures/{picture}/assist", response_class=Response, responses=_PNG)
    def assist(image: ImageId, body: AssistRequest) -> Response:
        """The mask of the region that points, a box or a scribble describe; nothing is saved."""
        file = project.image(image)
        label, scribble = body.label, body.scribble or []
        mask = assistant.region(
            file, body.points, label=label, box=body.box, scribble=scribble, mode=body.mode, size=body.size
        )
        with RENDERING:
            content = png(mask)
        return Response(content, media_type="image/png", headers={"Cache-Control": "no-store"})

    @routes.post("/pictures/{picture}/prepare", status_code=204)
    def prepare(image: ImageId) -> None:
        """Prepare `assist` in this image, so that the first click is quick."""
        assistant.prepare(project.image(image))

    @routes.get("/suggestions", response_model=list[SuggestionBody])
    def suggestions(
        n: Annotated[int, Query(ge=1, le=100)] = 5,
        by: Literal["usefulness", "uncertainty", "coverage"] = "usefulness",
    ) -> JSONResponse:
        """Images to label next, the most useful first."""
        return JSONResponse(suggestions_of(view.masks, n, by))
