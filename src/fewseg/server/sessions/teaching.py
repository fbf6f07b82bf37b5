"""Routes that add examples to a session: images with masks, or with prompts from which masks are made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeAlias

import numpy as np
from fastapi import APIRouter, File, Form, Header, Query, UploadFile
from fastapi.responses import Response
from numpy.typing import NDArray

from fewseg.core.errors import InvalidOption
from fewseg.images import ImageLike
from fewseg.images.masks import MaskValue
from fewseg.images.prompts import Prompt, parse_prompts, require_foreground
from fewseg.inference.supports import LabelSupport
from fewseg.server.api_errors import ApiError, error_responses
from fewseg.server.limits import Limits
from fewseg.server.services import Services
from fewseg.server.sessions.schemas import Name, PromptsText, Rle, SessionId, TaughtLabel
from fewseg.server.sessions.sessions import SessionStore
from fewseg.server.sessions.view import describe_label, negotiated, run_lengths
from fewseg.server.uploads import add_notes, mask_png, mask_value

_CHARACTERS: Final = 100
"""Average number of characters allowed for a prompt, or for a point, in JSON: 50 suffice with all digits."""

MaskOfPrompts: TypeAlias = Callable[[ImageLike, Sequence[Prompt]], NDArray[np.bool_]]

_PNG: Final[dict[str, Any]] = {
    "description": "The mask.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}


_VALUE: Final = "The index (3) or colour (255,0,0) that is the label; `instances`: every value but 0 is an object."


def add_teaching(routes: APIRouter, services: Services, sessions: SessionStore) -> None:
    """Add the routes to those of the sessions."""
    _add_shots(routes, services, sessions)
    _add_outline(routes, services, sessions)


def _add_shots(routes: APIRouter, services: Services, sessions: SessionStore) -> None:
    @routes.post(
        "/{session}/shots", status_code=201, response_model_exclude_none=True, responses=error_responses(404, 409)
    )
    async def teach(
        session: SessionId,
        response: Response,
        label: Annotated[Name, Form(description="What is shown; a new label or one with examples already.")],
        images: Annotated[list[UploadFile], File(alias="image", description="Images, in order.")],
        masks: Annotated[
            list[UploadFile] | None, File(alias="mask", description="As many masks, each at its image's size.")
        ] = None,
        prompts: Annotated[
            list[PromptsText] | None, Form(alias="marks", description="Instead of masks: prompts for each image.")
        ] = None,
        value: Annotated[str | None, Form(description=_VALUE)] = None,
    ) -> TaughtLabel:
        """Add examples of a label: images and as many masks, or as many texts of prompts (`marks`), in the same order.

        A mask has its image's size, 0 (or black) is background; with `value` other values are background too. Prompts
        are boxes, points and scribbles, from which masks are made as by `outline`; the response's `outlines` are those
        masks. The examples are added all or none. An example that the label has already is refused with 409.
        """
        supports = sessions.get(session).supports
        _check_counts(label, len(images), len(masks or ()), len(prompts or ()))
        if len(images) > services.limits.shots:
            error = f"{len(images)} examples in one request: a session has at most {services.limits.shots}"
            raise ApiError(413, error)
        chosen, outlines, notes = mask_value(value), None, list[str]()
        if masks:
            pairs = list(zip(images, masks, strict=True))
            shots = await services.queue.run(_encode, services, label, pairs, chosen, notes)
        else:
            if chosen is not None:
                raise InvalidOption(f"value {chosen} chooses in a mask, and {label!r} has none: leave it out")
            mask_of = partial(services.model.mask_from_prompts, supports=supports, label=label)
            prompted = services, label, images, prompts or (), notes, mask_of
            shots, outlines = await services.queue.run(_encode_prompted, *prompted)
        add_notes(response, notes)
        known = describe_label(sessions.teach(session, label, shots), label)
        return TaughtLabel(
            name=known.name, shots=known.shots, adapted=known.adapted, kind=known.kind, outlines=outlines
        )


def _add_outline(routes: APIRouter, services: Services, sessions: SessionStore) -> None:
    @routes.post("/{session}/outline", response_model=Rle, responses={200: _PNG, **error_responses(404, 406)})
    async def outline(
        session: SessionId,
        response: Response,
        image: UploadFile,
        prompts: Annotated[PromptsText, Form(alias="marks")],
        label: Annotated[
            Name | None, Form(description="What the objects are: examples that the label has help to find them.")
        ] = None,
        format: Annotated[
            Literal["json", "png"] | None,
            Query(description="`json`: run lengths; `png`: 0 and 255. Decided by `Accept` if not given."),
        ] = None,
        accept: Annotated[str, Header(include_in_schema=False)] = "*/*",
    ) -> Rle | Response:
        """The mask made from prompts, at the image's size, to check it before teaching. Nothing is saved."""
        mask_of = partial(services.model.mask_from_prompts, supports=sessions.get(session).supports, label=label)
        notes: list[str] = []
        wanted = format or negotiated(accept)
        made = await services.queue.run(_outline, services, image, prompts, wanted, notes, mask_of)
        add_notes(made if isinstance(made, Response) else response, notes)
        return made


def _check_counts(label: str, images: int, masks: int, prompts: int) -> None:
    """Raise `ApiError` unless every image comes with a mask, or every one with prompts."""
    if masks and prompts:
        raise ApiError(422, f"masks and marks for {label!r}: send one or the other for each image")
    if not masks and not prompts:
        raise ApiError(422, f"nothing says where {label!r} is: send a mask, or marks, for each image")
    if images != masks + prompts:
        received, remedy = (f"{masks} masks", "mask") if masks else (f"{prompts} texts of marks", "text")
        raise ApiError(422, f"{images} images and {received}: send one {remedy} for each image")


def _parsed(texts: Sequence[str], limits: Limits) -> list[tuple[Prompt, ...]]:
    """The prompts of each image; raises `InvalidSupport`, and `ApiError` 413 for too many."""
    length, longest = sum(map(len, texts)), _CHARACTERS * (limits.marks + limits.places)
    if length > longest:  # before parsing, which takes a second per megabyte
        raise ApiError(413, f"marks of {length} characters, at most {longest} are read: send fewer in a request")
    several = len(texts) > 1
    parsed = [parse_prompts(text, f"marks {i}" if several else "marks") for i, text in enumerate(texts, 1)]
    prompts = [prompt for objects in parsed for prompt in objects]
    points = sum(prompt.places for prompt in prompts)
    if len(prompts) > limits.marks:
        raise ApiError(413, f"{len(prompts)} objects are marked in one request, at most {limits.marks}: send fewer")
    if points > limits.places:
        raise ApiError(413, f"points and scribbles of {points} places, at most {limits.places}: send fewer")
    return parsed


def _encode(
    services: Services,
    label: str,
    pairs: Sequence[tuple[UploadFile, UploadFile]],
    value: MaskValue | None,
    notes: list[str],
) -> list[LabelSupport]:
    shots = []
    for image_file, mask_file in pairs:
        with services.open_image(image_file.file, notes) as image, services.open_mask(mask_file.file, notes) as mask:
            shots.append(services.model.encode(label, image, mask, value))
    return shots


def _encode_prompted(
    services: Services,
    label: str,
    images: Sequence[UploadFile],
    texts: Sequence[str],
    notes: list[str],
    mask_of: MaskOfPrompts,
) -> tuple[list[LabelSupport], list[Rle]]:
    """The examples, and the masks made from their prompts."""
    shots, outlines = [], []
    for file, prompts in zip(images, _parsed(texts, services.limits), strict=True):
        with services.open_image(file.file, notes) as image:
            mask = mask_of(image, prompts)
            require_foreground(mask, repr(label))
            shots.append(services.model.encode(label, image, mask))
        outlines.append(run_lengths(mask))
    return shots, outlines


def _outline(
    services: Services,
    file: UploadFile,
    text: str,
    format: Literal["json", "png"],
    notes: list[str],
    mask_of: MaskOfPrompts,
) -> Rle | Response:
    (prompts,) = _parsed([text], services.limits)
    with services.open_image(file.file, notes) as image:
        mask = mask_of(image, prompts)
    return Response(mask_png(mask), media_type="image/png") if format == "png" else run_lengths(mask)
