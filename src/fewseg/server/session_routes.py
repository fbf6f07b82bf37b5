"""Routes of the sessions: teach, list, forget, segment, export, load."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from fastapi import APIRouter, Body, File, Form, Header, Query, UploadFile
from fastapi import Path as PathParameter
from fastapi.responses import Response
from pycocotools import mask as coco

from fewseg.masks import MaskValue
from fewseg.server.limits import Limits
from fewseg.server.model import ServedModel, Supports, memory
from fewseg.server.pictures import index_png, mask_png, mask_value, open_sent
from fewseg.server.problems import Problem, error_responses
from fewseg.server.schemas import Found, FoundLabel, LabelInfo, Name, NewSession, Rle, SessionInfo
from fewseg.server.sessions import Session, Sessions
from fewseg.server.work import Gate
from fewseg.taught import LabelSupport
from fewseg.types import Prediction

Format = Literal["json", "png", "index"]

SessionId = Annotated[str, PathParameter(description="As POST /sessions gave it.", examples=["5b0f6c1e9a3d7824"])]
_TAUGHT: Final = "application/vnd.fewseg"
_FORMAT_HELP: Final = (
    "`json`: run lengths, boxes and scores; `png`: the mask of one label, 0 and 255; `index`: a PNG of "
)
_MASKS: Final = 8
"""Masks of the largest picture that may be made at once: each takes a byte a pixel."""
_PNG: Final[dict[str, Any]] = {
    "description": "Found masks.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}
_FILE: Final[dict[str, Any]] = {
    "description": "What `fewseg.Segmenter.load` reads: encoded examples, no pictures.",
    "content": {_TAUGHT: {"schema": {"type": "string", "format": "binary"}}},
}


def router(model: ServedModel, sessions: Sessions, gate: Gate, limits: Limits) -> APIRouter:
    """The routes, to be included below `/api/v1`."""
    routes = APIRouter(prefix="/sessions", tags=["sessions"])
    _add_sessions(routes, sessions)
    _add_files(routes, model, sessions, gate)
    _add_teaching(routes, model, sessions, gate, limits)
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


def _add_teaching(routes: APIRouter, model: ServedModel, sessions: Sessions, gate: Gate, limits: Limits) -> None:
    @routes.post("/{session}/shots", status_code=201, responses=error_responses(404, 409))
    async def teach(
        session: SessionId,
        label: Annotated[Name, Form(description="What the masks show; a new label or one with examples already.")],
        image: Annotated[list[UploadFile], File(description="Pictures, in order.")],
        mask: Annotated[list[UploadFile], File(description="As many masks, each at its picture's size.")],
        value: Annotated[str | None, Form(description="The index (3) or colour (255,0,0) that is the label.")] = None,
    ) -> LabelInfo:
        """Add examples of a label: pictures and as many masks, in the same order.

        A mask has its picture's size, 0 (or black) is background; with `value` other values are background too. The
        examples are added all or none. An example that the label has already is refused with 409.
        """
        sessions.get(session)
        if len(image) != len(mask):
            raise Problem(422, f"{len(image)} pictures and {len(mask)} masks: send one mask for each picture")
        if len(image) > limits.shots:
            raise Problem(413, f"{len(image)} examples in one request: a session has at most {limits.shots}")
        chosen = mask_value(value)
        shots = await gate.run(_encode, model, label, list(zip(image, mask, strict=True)), chosen, limits)
        return _label(sessions.teach(session, label, shots), label)

    @routes.get("/{session}/labels", responses=error_responses(404))
    async def list_labels(session: SessionId) -> list[LabelInfo]:
        """The session's labels in order of teaching, with their examples."""
        found = sessions.get(session)
        return [_label(found, label) for label in found.supports]

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
        image: UploadFile,
        label: Annotated[list[str] | None, Query(description="Only these labels; all if not given.")] = None,
        format: Annotated[
            Format | None, Query(description=f"{_FORMAT_HELP}label numbers. Decided by `Accept` if not given.")
        ] = None,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    ) -> Found | Response:
        """Find the session's labels in a picture.

        As `index`, header `X-Fewseg-Labels` lists the labels as JSON: value 1 is the first of them.
        """
        supports = sessions.get(session).chosen(label)
        wanted = format or _negotiated(accept, supports)
        if wanted == "png" and len(supports) > 1:
            raise Problem(
                422, f"format png shows one of {len(supports)} labels: name it with ?label=, or ask for index"
            )
        return await gate.run(_segment, model, supports, image, wanted, limits)


def describe(sessions: Sessions, session: Session) -> SessionInfo:
    """A session as clients see it."""
    return SessionInfo(
        id=session.id,
        name=session.name,
        created=session.created,
        expires_in=sessions.seconds_left(session.id),
        bytes=memory(session.supports),
        labels=[_label(session, label) for label in session.supports],
    )


def _label(session: Session, label: str) -> LabelInfo:
    return LabelInfo(name=label, shots=list(session.shot_ids(label)))


def _encode(
    model: ServedModel,
    label: str,
    pairs: Sequence[tuple[UploadFile, UploadFile]],
    value: MaskValue | None,
    limits: Limits,
) -> list[LabelSupport]:
    shots = []
    for image, mask in pairs:
        with open_sent(image.file, "picture", limits) as picture, open_sent(mask.file, "mask", limits) as drawn:
            shots.append(model.encode(label, picture, drawn, value))
    return shots


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
        return _answer(model, found, time.perf_counter() - start)
    scores = json.dumps({name: round(score, 4) for name, score in found.scores.items()})
    headers = {"X-Fewseg-Labels": json.dumps(list(found.labels)), "X-Fewseg-Scores": scores}
    if wanted == "png":
        return Response(mask_png(found.masks[found.labels[0]]), media_type="image/png", headers=headers)
    return Response(index_png(found.label_map, found.labels), media_type="image/png", headers=headers)


def _negotiated(accept: str, supports: Supports) -> Format:
    """The first of the formats that the client names; raises `Problem` 406."""
    for part in accept.lower().split(","):
        kind = part.split(";")[0].strip()
        if kind in ("application/json", "application/*", "*/*", ""):
            return "json"
        if kind in ("image/png", "image/*"):
            return "png" if len(supports) == 1 else "index"
    raise Problem(406, f"no answer as {accept[:100]!r}: accept application/json or image/png")


def _answer(model: ServedModel, found: Prediction, seconds: float) -> Found:
    height, width = found.label_map.shape
    labels = [_found(name, found) for name in found.labels]
    return Found(width=width, height=height, labels=labels, model=model.version, seconds=round(seconds, 4))


def _found(name: str, found: Prediction) -> FoundLabel:
    rle = coco.encode(np.asfortranarray(found.masks[name], np.uint8))
    area = int(coco.area(rle))
    return FoundLabel(
        name=name,
        score=round(found.scores[name], 4),
        present=found.present[name],
        area=area,
        box=[int(v) for v in coco.toBbox(rle)] if area else None,
        rle=Rle(size=[int(v) for v in rle["size"]], counts=rle["counts"].decode("ascii")),
    )
