"""Bodies of the requests and responses of the sessions' API."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

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


def _non_empty(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1}


def _prompt(kind: str, content: dict[str, Any], meaning: str) -> dict[str, Any]:
    properties = {kind: {**content, "description": meaning}}
    return {"type": "object", "properties": properties, "required": [kind], "additionalProperties": False}


_INSIDE: Final = {"enum": [0, 1]}
_POINT: Final = {**_numbers(3), "prefixItems": [{"type": "number"}, {"type": "number"}, _INSIDE]}
_PROMPT: Final = {
    "oneOf": [
        _prompt("box", _numbers(4), "x0, y0, x1, y1 around the object."),
        _prompt("points", _non_empty(_POINT), "Each x, y, and 1 where it is inside or 0 where it is outside."),
        _prompt(
            "scribble",
            {"anyOf": [_non_empty(_numbers(2)), _non_empty(_non_empty(_numbers(2)))]},
            "One line inside, or several.",
        ),
    ]
}
PROMPTS: Final[dict[str, Any]] = {"oneOf": [_PROMPT, _non_empty(_PROMPT)]}
"""The JSON schema of the text that `fewseg.images.prompts.parse_prompts` reads."""

PromptsText = Annotated[
    str,
    Field(
        description="JSON: a box, points or a scribble, or a list of them, each one object; in pixels x, y of the "
        "upright image.",
        examples=['{"box": [40, 25, 210, 180]}'],
        json_schema_extra={"contentMediaType": "application/json", "contentSchema": PROMPTS},
    ),
]


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


_LIMITS: Final = {"request_mb": 64, "megapixels": 64, "sessions": 32, "shots": 200}


class Info(BaseModel):
    """The server's version, model and limits."""

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
    project: str | None = Field(description="Identifier of that folder: a hash of its path.")
    limits: dict[str, int | float] = Field(description="Limits on the resources that clients can use.")


class NewSession(BaseModel):
    """A session to create."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "pets"}]})
    name: Name | None = Field(None, description="A name for people.")


_LABEL: Final = {"name": "cat", "shots": ["9f0c2d8e1b7a6453"], "adapted": False, "kind": "thing"}


class LabelInfo(BaseModel):
    """A label that was taught."""

    model_config = _example(**_LABEL)
    name: str
    shots: list[str] = Field(description="Ids of its examples, in order of teaching.")
    adapted: bool = Field(False, description="Whether what was fitted to these examples is used.")
    kind: Literal["thing", "stuff"] = Field("thing", description="`stuff` (sky, road) has no single objects.")


class LabelKind(BaseModel):
    """Whether a label is one of things or of stuff."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"label": "road", "kind": "stuff"}]})
    label: str
    kind: Annotated[
        Literal["thing", "stuff"] | None, Field(description="As its examples look where it is null or not given.")
    ] = None


class Adapt(BaseModel):
    """How to adapt labels to their examples."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"labels": ["crack"]}]})
    labels: Annotated[
        list[str] | None, Field(description="Only these; all with two examples or more if not given.")
    ] = None
    seconds: Annotated[
        float, Field(ge=0, le=60, description="Time to plan for, for each label, on two processor cores.")
    ] = 60
    force: Annotated[bool, Field(description="Use what was fitted whatever left-out examples say.")] = False


class Rle(BaseModel):
    """A mask as COCO's compressed run lengths: `pycocotools.mask.decode` reads it."""

    model_config = _example(size=[64, 96], counts="PPYo0")
    size: list[int] = Field(min_length=2, max_length=2, description="Height and width.")
    counts: str


class TaughtLabel(LabelInfo):
    """A label that was taught, and the masks made from its prompts."""

    model_config = _example(**_LABEL, outlines=[{"size": [64, 96], "counts": "PPYo0"}])
    outlines: list[Rle] | None = Field(
        None, description="The mask that each image was taught with, in order; only where prompts (`marks`) were sent."
    )


class SessionInfo(BaseModel):
    """A session and its labels."""

    model_config = _example(
        id="5b0f6c1e9a3d7824", name="pets", created=1760000000.0, expires_in=3600.0, bytes=1769472, labels=[_LABEL]
    )
    id: str
    name: str
    created: float = Field(description="Seconds since 1970.")
    expires_in: float = Field(description="Seconds until it is deleted, unless it is used before.")
    bytes: int = Field(description="Memory that its encoded examples take.")
    labels: list[LabelInfo]


_OBJECT: Final = {
    "box": [12, 8, 40, 44],
    "area": 1024,
    "centroid": [31.5, 30.25],
    "score": 0.91,
    "rle": {"size": [64, 96], "counts": "PPYo0"},
}

_PREDICTION: Final = {
    "name": "cat",
    "score": 0.93,
    "present": True,
    "area": 1024,
    "box": [12, 8, 40, 44],
    "rle": {"size": [64, 96], "counts": "PPYo0"},
    "count": 1,
    "objects": [_OBJECT],
}


class ObjectBody(BaseModel):
    """One single object of a label."""

    model_config = _example(**_OBJECT)
    box: list[int] = Field(description="x, y, width, height around it.")
    area: int = Field(description="Its pixels.")
    centroid: list[float] = Field(description="x, y.")
    score: float = Field(description="Mean probability, 0 to 1, of its pixels.")
    rle: Rle


class LabelPredictionBody(BaseModel):
    """The prediction of one label."""

    model_config = _example(**_PREDICTION)
    name: str
    score: float = Field(description="Probability, 0 to 1, that the label is present in the image.")
    present: bool = Field(description="Whether the score reaches the threshold; the mask is never emptied.")
    area: int = Field(description="Pixels of the mask.")
    box: list[int] | None = Field(description="x, y, width, height around the mask; null for an empty one.")
    rle: Rle
    count: int | None = Field(
        None, description="Number of single objects; null for a label of stuff (sky, road), or where not asked for."
    )
    objects: list[ObjectBody] | None = Field(
        None, description="The single objects, which make up the mask; only where `objects=true` asks for them."
    )


class PredictionBody(BaseModel):
    """Masks of one image, at its own size after EXIF rotation. Labels may overlap."""

    model_config = _example(width=96, height=64, labels=[_PREDICTION], model="dcama-6f1d2c3b", seconds=0.21)
    width: int
    height: int
    labels: list[LabelPredictionBody]
    model: str = Field(description="Changes with the model's weights.")
    seconds: float = Field(description="Seconds of computing, without waiting.")
