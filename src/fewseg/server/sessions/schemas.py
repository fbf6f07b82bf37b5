"""What the API takes and gives, as OpenAPI documents it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import Path as PathParameter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_NAME: Final = 100


def _printable(name: str) -> str:
    name = name.strip()
    if not name or not name.isprintable():
        raise ValueError("give a name of printable characters")
    return name


Name = Annotated[
    str,
    AfterValidator(_printable),
    Field(min_length=1, max_length=MAX_NAME, pattern=r"\S", description="Printable characters.", examples=["cat"]),
]
SessionId = Annotated[str, PathParameter(description="As POST /sessions gave it.", examples=["5b0f6c1e9a3d7824"])]


def _numbers(count: int) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "number"}, "minItems": count, "maxItems": count}


def _some(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _mark(kind: str, content: dict[str, Any], meaning: str) -> dict[str, Any]:
    properties = {kind: {**content, "description": meaning}}
    return {"type": "object", "properties": properties, "required": [kind], "additionalProperties": False}


_INSIDE: Final = {"enum": [0, 1]}
_POINT: Final = {**_numbers(3), "prefixItems": [{"type": "number"}, {"type": "number"}, _INSIDE]}
_MARK: Final = {
    "oneOf": [
        _mark("box", _numbers(4), "x0, y0, x1, y1 around the object."),
        _mark("points", _some(_POINT), "Each x, y, and 1 where it is inside or 0 where it is outside."),
        _mark("scribble", {"anyOf": [_some(_numbers(2)), _some(_some(_numbers(2)))]}, "One line inside, or several."),
    ]
}
MARKS: Final[dict[str, Any]] = {"oneOf": [_MARK, _some(_MARK)]}
"""The JSON schema of the text that `fewseg.images.prompts.parse_marks` reads."""

MarksText = Annotated[
    str,
    Field(
        description="JSON: a box, points or a scribble, or a list of them, each one object; in pixels x, y of the "
        "upright image.",
        examples=['{"box": [40, 25, 210, 180]}'],
        json_schema_extra={"contentMediaType": "application/json", "contentSchema": MARKS},
    ),
]


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


_LIMITS: Final = {"request_mb": 64, "megapixels": 64, "sessions": 32, "shots": 200}


class Info(BaseModel):
    """About the server."""

    model_config = _example(
        version="0.1.0",
        model="default (dcama over tiny)",
        image_size=384,
        folder="photos",
        project="0c4f1b2d9a7e3f58",
        limits=_LIMITS,
    )
    version: str
    model: str
    image_size: int = Field(description="Side, in pixels, of the square that images are resized to for the model.")
    folder: str | None = Field(description="Name of the folder that the page labels, if there is one.")
    project: str | None = Field(description="Tells that folder from all others, those of the same name too.")
    limits: dict[str, int | float] = Field(description="How much the server gives to its clients.")


class NewSession(BaseModel):
    """How to start a session."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "pets"}]})
    name: Name | None = Field(None, description="What to call it, for people.")


_LABEL: Final = {"name": "cat", "shots": ["9f0c2d8e1b7a6453"]}


class LabelInfo(BaseModel):
    """A label that was taught."""

    model_config = _example(**_LABEL)
    name: str
    shots: list[str] = Field(description="Ids of its examples, in order of teaching.")


class Rle(BaseModel):
    """A mask as COCO's compressed run lengths: `pycocotools.mask.decode` reads it."""

    model_config = _example(size=[64, 96], counts="PPYo0")
    size: list[int] = Field(min_length=2, max_length=2, description="Height and width.")
    counts: str


class Taught(LabelInfo):
    """A label that was taught, and what marks became."""

    model_config = _example(**_LABEL, outlines=[{"size": [64, 96], "counts": "PPYo0"}])
    outlines: list[Rle] | None = Field(
        None, description="The mask that each image was taught with, in order; only where marks were sent."
    )


class SessionInfo(BaseModel):
    """What was taught in a session."""

    model_config = _example(
        id="5b0f6c1e9a3d7824", name="pets", created=1760000000.0, expires_in=3600.0, bytes=1769472, labels=[_LABEL]
    )
    id: str
    name: str
    created: float = Field(description="Seconds since 1970.")
    expires_in: float = Field(description="Seconds until it is forgotten, if nobody asks for it before.")
    bytes: int = Field(description="Memory that its encoded examples take.")
    labels: list[LabelInfo]


_FOUND: Final = {
    "name": "cat",
    "score": 0.93,
    "present": True,
    "area": 1024,
    "box": [12, 8, 40, 44],
    "rle": {"size": [64, 96], "counts": "PPYo0"},
}


class FoundLabel(BaseModel):
    """What was found of one label."""

    model_config = _example(**_FOUND)
    name: str
    score: float = Field(description="How sure the model is that the label is in the image at all, from 0 to 1.")
    present: bool = Field(description="Whether the score reaches the threshold; the mask is never emptied.")
    area: int = Field(description="Pixels of the mask.")
    box: list[int] | None = Field(description="x, y, width, height around the mask; null for an empty one.")
    rle: Rle


class Found(BaseModel):
    """Masks of one image, at its own size after EXIF rotation. Labels may overlap."""

    model_config = _example(width=96, height=64, labels=[_FOUND], model="dcama-6f1d2c3b", seconds=0.21)
    width: int
    height: int
    labels: list[FoundLabel]
    model: str = Field(description="Changes with the model's weights.")
    seconds: float = Field(description="Seconds of computing, without waiting.")
