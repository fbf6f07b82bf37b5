"""Routes that teach a session: pictures, and where the label is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, File, Form, UploadFile

from fewseg.masks import MaskValue
from fewseg.server.limits import Limits
from fewseg.server.model import ServedModel
from fewseg.server.pictures import mask_value, open_sent
from fewseg.server.problems import Problem, error_responses
from fewseg.server.schemas import LabelInfo, Name, SessionId
from fewseg.server.session_view import describe_label
from fewseg.server.sessions import Sessions
from fewseg.server.work import Gate
from fewseg.taught import LabelSupport


def add_teaching(routes: APIRouter, model: ServedModel, sessions: Sessions, gate: Gate, limits: Limits) -> None:
    """Add the routes to those of the sessions."""

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
        return describe_label(sessions.teach(session, label, shots), label)


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
