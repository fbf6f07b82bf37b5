"""Routes that teach a session: images, and where the label is in them, as masks or as marks that become masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, File, Form, Header, Query, UploadFile
from fastapi.responses import Response

from fewseg.core.errors import InvalidOption
from fewseg.images.masks import MaskValue
from fewseg.images.prompts import Mark, parse_marks, require_outlined
from fewseg.inference.supports import LabelSupport
from fewseg.server.limits import Limits
from fewseg.server.model import ServedModel
from fewseg.server.problems import Problem, error_responses
from fewseg.server.queue import Gate
from fewseg.server.sessions.schemas import MarksText, Name, Rle, SessionId, Taught
from fewseg.server.sessions.sessions import Sessions
from fewseg.server.sessions.view import describe_label, negotiated, run_lengths
from fewseg.server.uploads import mask_png, mask_value, open_sent

_LONGEST: Final = 100
"""Characters that the JSON of a mark, or of a place of it, may take on average: with all digits, 50 suffice."""

_PNG: Final[dict[str, Any]] = {
    "description": "The mask.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}


def add_teaching(routes: APIRouter, model: ServedModel, sessions: Sessions, gate: Gate, limits: Limits) -> None:
    """Add the routes to those of the sessions."""
    _add_shots(routes, model, sessions, gate, limits)
    _add_outline(routes, model, sessions, gate, limits)


def _add_shots(routes: APIRouter, model: ServedModel, sessions: Sessions, gate: Gate, limits: Limits) -> None:
    @routes.post(
        "/{session}/shots", status_code=201, response_model_exclude_none=True, responses=error_responses(404, 409)
    )
    async def teach(
        session: SessionId,
        label: Annotated[Name, Form(description="What is shown; a new label or one with examples already.")],
        image: Annotated[list[UploadFile], File(description="Images, in order.")],
        mask: Annotated[list[UploadFile] | None, File(description="As many masks, each at its image's size.")] = None,
        marks: Annotated[list[MarksText] | None, Form(description="Instead of masks: as many texts of marks.")] = None,
        value: Annotated[str | None, Form(description="The index (3) or colour (255,0,0) that is the label.")] = None,
    ) -> Taught:
        """Add examples of a label: images and as many masks, or as many texts of marks, in the same order.

        A mask has its image's size, 0 (or black) is background; with `value` other values are background too. Marks
        are boxes, points and scribbles, which become masks as `outline` gives them; the answer's `outlines` are those
        masks. The examples are added all or none. An example that the label has already is refused with 409.
        """
        sessions.get(session)
        _check_counts(label, len(image), len(mask or ()), len(marks or ()))
        if len(image) > limits.shots:
            raise Problem(413, f"{len(image)} examples in one request: a session has at most {limits.shots}")
        chosen, outlines = mask_value(value), None
        if mask:
            shots = await gate.run(_encode, model, label, list(zip(image, mask, strict=True)), chosen, limits)
        else:
            if chosen is not None:
                raise InvalidOption(f"value {chosen} chooses in a mask, and {label!r} has none: leave it out")
            shots, outlines = await gate.run(_encode_marked, model, label, image, marks or (), limits)
        known = describe_label(sessions.teach(session, label, shots), label)
        return Taught(name=known.name, shots=known.shots, outlines=outlines)


def _add_outline(routes: APIRouter, model: ServedModel, sessions: Sessions, gate: Gate, limits: Limits) -> None:
    @routes.post("/{session}/outline", response_model=Rle, responses={200: _PNG, **error_responses(404, 406)})
    async def outline(
        session: SessionId,
        image: UploadFile,
        marks: Annotated[MarksText, Form()],
        format: Annotated[
            Literal["json", "png"] | None,
            Query(description="`json`: run lengths; `png`: 0 and 255. Decided by `Accept` if not given."),
        ] = None,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    ) -> Rle | Response:
        """The mask that marks become, at the image's size: to be looked at before they teach. Nothing is kept."""
        sessions.get(session)
        wanted = format or negotiated(accept)
        return await gate.run(_outline, model, image, marks, wanted, limits)


def _check_counts(label: str, images: int, masks: int, marks: int) -> None:
    """Raise `Problem` unless every image comes with a mask, or every one with marks."""
    if masks and marks:
        raise Problem(422, f"masks and marks for {label!r}: send one or the other for each image")
    if not masks and not marks:
        raise Problem(422, f"nothing says where {label!r} is: send a mask, or marks, for each image")
    if images != masks + marks:
        got, remedy = (f"{masks} masks", "mask") if masks else (f"{marks} texts of marks", "text")
        raise Problem(422, f"{images} images and {got}: send one {remedy} for each image")


def _parsed(texts: Sequence[str], limits: Limits) -> list[tuple[Mark, ...]]:
    """The marks of each image; raises `InvalidSupport`, and `Problem` 413 for too many."""
    length, longest = sum(map(len, texts)), _LONGEST * (limits.marks + limits.places)
    if length > longest:  # before it is read: reading takes a second a megabyte
        raise Problem(413, f"marks of {length} characters, at most {longest} are read: send fewer in a request")
    several = len(texts) > 1
    parsed = [parse_marks(text, f"marks {i}" if several else "marks") for i, text in enumerate(texts, 1)]
    marks = [mark for objects in parsed for mark in objects]
    places = sum(mark.places for mark in marks)
    if len(marks) > limits.marks:
        raise Problem(413, f"{len(marks)} objects are marked in one request, at most {limits.marks} may be: send fewer")
    if places > limits.places:
        raise Problem(413, f"points and scribbles of {places} places, at most {limits.places}: send fewer in a request")
    return parsed


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


def _encode_marked(
    model: ServedModel, label: str, images: Sequence[UploadFile], texts: Sequence[str], limits: Limits
) -> tuple[list[LabelSupport], list[Rle]]:
    """The examples, and the masks that their marks became."""
    shots, outlines = [], []
    for image, objects in zip(images, _parsed(texts, limits), strict=True):
        with open_sent(image.file, "picture", limits) as picture:
            mask = model.outline(picture, objects)
            require_outlined(mask, repr(label))
            shots.append(model.encode(label, picture, mask))
        outlines.append(run_lengths(mask))
    return shots, outlines


def _outline(
    model: ServedModel, image: UploadFile, text: str, wanted: Literal["json", "png"], limits: Limits
) -> Rle | Response:
    (objects,) = _parsed([text], limits)
    with open_sent(image.file, "picture", limits) as picture:
        mask = model.outline(picture, objects)
    return Response(mask_png(mask), media_type="image/png") if wanted == "png" else run_lengths(mask)
