"""Routes of the sessions: list, delete, segment, export, load; `teaching` has those that add examples."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, File, Form, Header, Query, UploadFile
from fastapi.responses import Response

from fewseg.inference.supports import LabelSupport
from fewseg.server.api_errors import ApiError, error_responses
from fewseg.server.bodies import JsonRoute
from fewseg.server.model import SupportsByLabel
from fewseg.server.reports import AdaptationReport, describe_adaptation
from fewseg.server.services import Services
from fewseg.server.sessions.schemas import (
    Adapt,
    LabelInfo,
    LabelKind,
    Name,
    NewSession,
    PredictionBody,
    SessionId,
    SessionInfo,
)
from fewseg.server.sessions.sessions import SessionStore
from fewseg.server.sessions.teaching import add_teaching
from fewseg.server.sessions.view import describe, describe_label, describe_prediction, negotiated
from fewseg.server.uploads import add_notes, index_png, mask_png

Format = Literal["json", "png", "index"]
_TAUGHT: Final = "application/vnd.fewseg"
_FORMAT_HELP: Final = (
    "`json`: run lengths, boxes and scores; `png`: the mask of one label, 0 and 255; `index`: a PNG of "
)
_MASKS: Final = 8
"""Greatest number of masks of the largest image in one request: each takes a byte per pixel."""
_PNG: Final[dict[str, Any]] = {
    "description": "The predicted masks.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}
_FILE: Final[dict[str, Any]] = {
    "description": "A file for `fewseg.Segmenter.load`: encoded examples, no images.",
    "content": {_TAUGHT: {"schema": {"type": "string", "format": "binary"}}},
}


def router(services: Services, sessions: SessionStore) -> APIRouter:
    """The routes, to be included below `/api/v1`."""
    routes = APIRouter(prefix="/sessions", tags=["sessions"], route_class=JsonRoute)
    _add_sessions(routes, sessions)
    _add_files(routes, services, sessions)
    add_teaching(routes, services, sessions)
    _add_labels(routes, sessions)
    _add_adapting(routes, services, sessions)
    _add_segmenting(routes, services, sessions)
    return routes


def _add_sessions(routes: APIRouter, sessions: SessionStore) -> None:
    @routes.post("", status_code=201, responses=error_responses(429))
    async def create_session(new: Annotated[NewSession | None, Body()] = None) -> SessionInfo:
        """Create a session: a set of labels of your own, deleted after a long idle time."""
        return describe(sessions, sessions.create((new.name if new else None) or ""))

    @routes.get("", responses=error_responses())
    async def list_sessions() -> list[SessionInfo]:
        """Every session, the oldest first."""
        return [describe(sessions, session) for session in sessions.all()]

    @routes.get("/{session}", responses=error_responses(404))
    async def get_session(session: SessionId) -> SessionInfo:
        """A session, its labels and their examples."""
        return describe(sessions, sessions.get(session))

    @routes.delete("/{session}", status_code=204, responses=error_responses(404))
    async def delete_session(session: SessionId) -> None:
        """Delete a session with its labels."""
        sessions.delete(session)


def _add_files(routes: APIRouter, services: Services, sessions: SessionStore) -> None:
    @routes.post("/load", status_code=201, responses=error_responses(429))
    async def load_session(file: UploadFile, name: Annotated[Name | None, Form()] = None) -> SessionInfo:
        """Create a session from a file that `export` or `fewseg.Segmenter.save` wrote with the same model."""

        def load() -> dict[str, LabelSupport]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "taught.fewseg")
                with path.open("wb") as copy:
                    while part := file.file.read(1 << 20):
                        copy.write(part)
                return services.model.load(path)

        return describe(sessions, sessions.create(name or "", await services.queue.run(load)))

    @routes.get("/{session}/export", responses={200: _FILE, **error_responses(404, 409)}, response_class=Response)
    async def export_session(session: SessionId) -> Response:
        """The session's encoded examples as a file, for `load` or `fewseg.Segmenter.load`."""
        state = sessions.get(session)
        supports = state.chosen(None)

        def save() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                services.model.save(supports, Path(folder, "taught.fewseg"))
                return Path(folder, "taught.fewseg").read_bytes()

        headers = {"Content-Disposition": f'attachment; filename="{state.id}.fewseg"'}
        return Response(await services.queue.run(save), media_type=_TAUGHT, headers=headers)


def _add_labels(routes: APIRouter, sessions: SessionStore) -> None:
    @routes.get("/{session}/labels", responses=error_responses(404))
    async def list_labels(session: SessionId) -> list[LabelInfo]:
        """The session's labels in order of teaching, with their examples."""
        state = sessions.get(session)
        return [describe_label(state, label) for label in state.supports]

    @routes.post("/{session}/kind", responses=error_responses(404))
    async def set_kind(session: SessionId, kind: LabelKind) -> LabelInfo:
        """Say whether a label is one of things, whose single objects are told apart, or of stuff (sky, road)."""
        return describe_label(sessions.set_kind(session, kind.label, kind.kind), kind.label)

    @routes.delete("/{session}/labels/{label:path}", responses=error_responses(404))
    async def forget_label(session: SessionId, label: str) -> SessionInfo:
        """Remove a label with its examples."""
        return describe(sessions, sessions.forget_label(session, label))

    @routes.delete("/{session}/shots/{shot}", responses=error_responses(404))
    async def forget_shot(session: SessionId, shot: str) -> SessionInfo:
        """Remove one example; a label is removed with its last one."""
        return describe(sessions, sessions.forget_shot(session, shot))


def _add_adapting(routes: APIRouter, services: Services, sessions: SessionStore) -> None:
    @routes.post("/{session}/adapt", response_model=list[AdaptationReport], responses=error_responses(404, 409))
    async def adapt(session: SessionId, how: Annotated[Adapt | None, Body()] = None) -> list[dict[str, Any]]:
        """Fit labels to their own examples where that helps, in about half a minute each: it pays from five examples.

        The answer says how well each label's examples are predicted that the fit has not seen, before and after. New
        examples drop the fit. A file from `export` keeps it, but labels that come from a file cannot be fitted again.
        """
        chosen, state = how or Adapt(), sessions.get(session)
        wanted = state.chosen(chosen.labels)
        if not chosen.labels:
            wanted = {label: support for label, support in wanted.items() if support.shots > 1}
        reports = []
        for label, support in wanted.items():
            how_long = chosen.seconds, chosen.force, services.check_open
            after, report = await services.fits.run(services.model.adapt, label, support, *how_long)
            sessions.keep_adapted(session, label, support, after)
            reports.append(describe_adaptation(report))
        return reports


def _add_segmenting(routes: APIRouter, services: Services, sessions: SessionStore) -> None:
    @routes.post(
        "/{session}/segment", response_model=PredictionBody, responses={200: _PNG, **error_responses(404, 406, 409)}
    )
    async def segment(
        session: SessionId,
        response: Response,
        image: Annotated[list[UploadFile], File(min_length=1, max_length=1, description="One image.")],
        label: Annotated[list[str] | None, Query(description="Only these labels; all if not given.")] = None,
        format: Annotated[
            Format | None, Query(description=f"{_FORMAT_HELP}label numbers. Decided by `Accept` if not given.")
        ] = None,
        objects: Annotated[bool, Query(description="Also single objects, in `json`: box, area, score, mask.")] = False,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    ) -> PredictionBody | Response:
        """Segment the session's labels in an image.

        As `index`, header `X-Fewseg-Labels` lists the labels as JSON: value 1 is the first of them.
        """
        supports = sessions.get(session).chosen(label)
        answer = format or _negotiated(accept, supports)
        if answer == "png" and len(supports) > 1:
            raise ApiError(
                422, f"format png shows one of {len(supports)} labels: name it with ?label=, or ask for index"
            )
        notes: list[str] = []
        found = await services.queue.run(_segment, services, supports, image[0], answer, notes, objects)
        add_notes(found if isinstance(found, Response) else response, notes)
        return found


def _segment(
    services: Services,
    supports: SupportsByLabel,
    upload: UploadFile,
    format: Format,
    notes: list[str],
    objects: bool,
) -> PredictionBody | Response:
    start = time.perf_counter()
    with services.open_image(upload.file, notes) as image:
        if image.width * image.height * len(supports) > _MASKS * services.limits.pixels:
            size = f"{image.width}x{image.height}"
            raise ApiError(413, f"{len(supports)} masks of {size} are too many at once: name fewer with ?label=")
        prediction = services.model.segmenter(supports).segment(image, probabilities=False)
    if format == "json":
        return describe_prediction(services.model, prediction, time.perf_counter() - start, objects=objects)
    scores = json.dumps({name: round(score, 4) for name, score in prediction.scores.items()})
    headers = {"X-Fewseg-Labels": json.dumps(list(prediction.labels)), "X-Fewseg-Scores": scores}
    if format == "png":
        return Response(mask_png(prediction.masks[prediction.labels[0]]), media_type="image/png", headers=headers)
    return Response(
        index_png(prediction.of_present().label_map, prediction.labels), media_type="image/png", headers=headers
    )


def _negotiated(accept: str, supports: SupportsByLabel) -> Format:
    """The format that `Accept` asks for; a PNG of several labels is an index image."""
    kind = negotiated(accept)
    return "index" if kind == "png" and len(supports) > 1 else kind
