"""Routes of the sessions: list, forget, segment, export, load; `session_teaching` has those that teach."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Body, File, Form, Header, Query, UploadFile
from fastapi.responses import Response

from fewseg.inference.supports import LabelSupport
from fewseg.server.limits import Limits
from fewseg.server.model import ServedModel, Supports
from fewseg.server.problems import Problem, error_responses
from fewseg.server.queue import Gate
from fewseg.server.sessions.schemas import Found, LabelInfo, Name, NewSession, SessionId, SessionInfo
from fewseg.server.sessions.sessions import Sessions
from fewseg.server.sessions.teaching import add_teaching
from fewseg.server.sessions.view import describe, describe_found, describe_label, negotiated
from fewseg.server.uploads import index_png, mask_png, open_sent

Format = Literal["json", "png", "index"]
_TAUGHT: Final = "application/vnd.fewseg"
_FORMAT_HELP: Final = (
    "`json`: run lengths, boxes and scores; `png`: the mask of one label, 0 and 255; `index`: a PNG of "
)
_MASKS: Final = 8
"""Masks of the largest image that may be made at once: each takes a byte a pixel."""
_PNG: Final[dict[str, Any]] = {
    "description": "Found masks.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}
_FILE: Final[dict[str, Any]] = {
    "description": "What `fewseg.Segmenter.load` reads: encoded examples, no images.",
    "content": {_TAUGHT: {"schema": {"type": "string", "format": "binary"}}},
}


def router(model: ServedModel, sessions: Sessions, gate: Gate, limits: Limits) -> APIRouter:
    """The routes, to be included below `/api/v1`."""
    routes = APIRouter(prefix="/sessions", tags=["sessions"])
    _add_sessions(routes, sessions)
    _add_files(routes, model, sessions, gate)
    add_teaching(routes, model, sessions, gate, limits)
    _add_labels(routes, sessions)
    _add_segmenting(routes, model, sessions, gate, limits)
    return routes


def _add_sessions(routes: APIRouter, sessions: Sessions) -> None:
    @routes.post("", status_code=201, responses=error_responses(429))
    async def create_session(new: Annotated[NewSession | None, Body()] = None) -> SessionInfo:
        """Start a session: a place for labels of your own, forgotten when it is idle for long."""
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
        """Forget a session and all that it was taught."""
        sessions.delete(session)


def _add_files(routes: APIRouter, model: ServedModel, sessions: Sessions, gate: Gate) -> None:
    @routes.post("/load", status_code=201, responses=error_responses(429))
    async def load_session(file: UploadFile, name: Annotated[Name | None, Form()] = None) -> SessionInfo:
        """Start a session from a file that `export` or `fewseg.Segmenter.save` wrote with the same model."""

        def load() -> dict[str, LabelSupport]:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "taught.fewseg")
                with path.open("wb") as copy:
                    while part := file.file.read(1 << 20):
                        copy.write(part)
                return model.load(path)

        return describe(sessions, sessions.create(name or "", await gate.run(load)))

    @routes.get("/{session}/export", responses={200: _FILE, **error_responses(404, 409)}, response_class=Response)
    async def export_session(session: SessionId) -> Response:
        """All that was taught as a file, for `load` or `fewseg.Segmenter.load`."""
        found = sessions.get(session)
        supports = found.chosen(None)

        def save() -> bytes:
            with tempfile.TemporaryDirectory() as folder:
                model.save(supports, Path(folder, "taught.fewseg"))
                return Path(folder, "taught.fewseg").read_bytes()

        headers = {"Content-Disposition": f'attachment; filename="{found.id}.fewseg"'}
        return Response(await gate.run(save), media_type=_TAUGHT, headers=headers)


def _add_labels(routes: APIRouter, sessions: Sessions) -> None:
    @routes.get("/{session}/labels", responses=error_responses(404))
    async def list_labels(session: SessionId) -> list[LabelInfo]:
        """The session's labels in order of teaching, with their examples."""
        found = sessions.get(session)
        return [describe_label(found, label) for label in found.supports]

    @routes.delete("/{session}/labels/{label:path}", responses=error_responses(404))
    async def forget_label(session: SessionId, label: str) -> SessionInfo:
        """Forget a label and its examples."""
        return describe(sessions, sessions.forget_label(session, label))

    @routes.delete("/{session}/shots/{shot}", responses=error_responses(404))
    async def forget_shot(session: SessionId, shot: str) -> SessionInfo:
        """Forget one example; a label goes with its last one."""
        return describe(sessions, sessions.forget_shot(session, shot))


def _add_segmenting(routes: APIRouter, model: ServedModel, sessions: Sessions, gate: Gate, limits: Limits) -> None:
    @routes.post("/{session}/segment", response_model=Found, responses={200: _PNG, **error_responses(404, 406, 409)})
    async def segment(
        session: SessionId,
        image: Annotated[list[UploadFile], File(min_length=1, max_length=1, description="One image.")],
        label: Annotated[list[str] | None, Query(description="Only these labels; all if not given.")] = None,
        format: Annotated[
            Format | None, Query(description=f"{_FORMAT_HELP}label numbers. Decided by `Accept` if not given.")
        ] = None,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    ) -> Found | Response:
        """Find the session's labels in an image.

        As `index`, header `X-Fewseg-Labels` lists the labels as JSON: value 1 is the first of them.
        """
        supports = sessions.get(session).chosen(label)
        wanted = format or _wanted(accept, supports)
        if wanted == "png" and len(supports) > 1:
            raise Problem(
                422, f"format png shows one of {len(supports)} labels: name it with ?label=, or ask for index"
            )
        return await gate.run(_segment, model, supports, image[0], wanted, limits)


def _segment(
    model: ServedModel, supports: Supports, image: UploadFile, wanted: Format, limits: Limits
) -> Found | Response:
    start = time.perf_counter()
    with open_sent(image.file, "picture", limits) as picture:
        if picture.width * picture.height * len(supports) > _MASKS * limits.pixels:
            size = f"{picture.width}x{picture.height}"
            raise Problem(413, f"{len(supports)} masks of {size} are too many at once: name fewer with ?label=")
        found = model.segmenter(supports).segment(picture, probabilities=False)
    if wanted == "json":
        return describe_found(model, found, time.perf_counter() - start)
    scores = json.dumps({name: round(score, 4) for name, score in found.scores.items()})
    headers = {"X-Fewseg-Labels": json.dumps(list(found.labels)), "X-Fewseg-Scores": scores}
    if wanted == "png":
        return Response(mask_png(found.masks[found.labels[0]]), media_type="image/png", headers=headers)
    return Response(index_png(found.label_map, found.labels), media_type="image/png", headers=headers)


def _wanted(accept: str, supports: Supports) -> Format:
    """The format that the client names; one PNG of all labels has numbers."""
    kind = negotiated(accept)
    return "index" if kind == "png" and len(supports) > 1 else kind
