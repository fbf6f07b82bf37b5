"""Bodies of the annotation page's requests and responses."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import Path as PathParameter
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from fewseg.server.reports import AdaptationReport

LabelId = Annotated[int, Field(ge=0, le=2**31)]
ImageId = Annotated[str, PathParameter(alias="picture", max_length=64, description="As the project lists it.")]
LabelPath = Annotated[LabelId, PathParameter(description="As the project lists it.")]
Coordinate = Annotated[FiniteFloat, Field(ge=-1e6, le=1e6)]


class AdaptationBody(BaseModel):
    """The adaptation of a label to its own examples."""

    state: Literal["waiting", "working", "done"] = Field(
        description="Whether the fit to its present examples is due, under way or done."
    )
    report: AdaptationReport | None = Field(
        description="What the fit in use brings, which may be that to earlier examples; null where there is none yet."
    )


class LabelBody(BaseModel):
    """A label."""

    id: int
    name: str
    colour: str = Field(description="#rrggbb")
    shots: int = Field(description="Images that are examples of it.")
    presence_threshold: float = Field(description="Score from which it is shown in an image.")
    mask_threshold: float = Field(description="Probability from which a pixel belongs to its mask.")
    own_thresholds: bool = Field(description="Whether a person has set one of them.")
    adaptation: AdaptationBody | None = Field(description="Null for a label with too few examples, or without fits.")


class ImageBody(BaseModel):
    """An image and its predictions."""

    id: str
    name: str
    width: int
    height: int
    state: Literal["waiting", "working", "done", "failed", "untaught"]
    error: str | None = Field(description="Why it failed, or why its hand-made mask cannot be used as an example.")
    supports: list[int] = Field(description="Labels that it is an example of.")
    confirmed: list[int] = Field(description="Labels whose mask a person has confirmed; it no longer changes.")
    absent: list[int] = Field(description="Labels that a person said are not in it; their masks are empty.")
    scores: dict[str, float] = Field(description="Label id to the probability that the label is present.")
    present: dict[str, bool] = Field(description="Label id to whether the score reaches the threshold.")
    confidences: dict[str, float] = Field(description="Label id to the expected IoU of its predicted mask.")
    confidence: float | None = Field(description="The least of these among labels that are present; null for none.")
    areas: dict[str, float] = Field(description="Label id to the share of the image that its mask covers, where known.")
    masks: dict[str, int] = Field(description="Label id to a number that changes with the mask.")
    checked: bool = Field(description="Whether a person has decided about every mask that is shown.")


class AnnotatedBody(ImageBody):
    """An image after a mask was saved."""

    merged: bool = Field(description="Whether the mask was joined with what somebody else painted meanwhile.")


class ProgressBody(BaseModel):
    """Progress of the background predictions."""

    done: int
    total: int
    seconds_left: float | None


class ProjectBody(BaseModel):
    """The whole project."""

    revision: int
    labels: list[LabelBody]
    exclusive: bool = Field(description="Whether a pixel has one label at most.")
    pictures: list[ImageBody]
    progress: ProgressBody
    can_undo: bool
    undo_text: str | None
    can_redo: bool
    redo_text: str | None
    notices: list[str] = Field(description="Messages about the project's files.")


class ExistingLabel(BaseModel):
    """A label of another tool."""

    name: str
    pictures: int


class ExistingBody(BaseModel):
    """Annotations of other tools in the folder."""

    kind: str = Field(description="Their format.")
    pictures: int
    labels: list[ExistingLabel]


class SuggestionBody(BaseModel):
    """An image to label next."""

    id: str
    score: float
    reason: str


class ExportBody(BaseModel):
    """The result of an export."""

    folder: str = Field(description="Name of the new folder, beside the images.")
    files: int
    pictures: int
    path: str = Field(description="The new folder on the server's machine.")
    left_out: int = Field(description="Images without a prediction of every label yet.")
    failed: int = Field(description="Images that could not be read or segmented.")


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewLabel(_Request):
    """A label to add."""

    name: Annotated[str, Field(max_length=1000)]
    colour: Annotated[str, Field(max_length=40, examples=["#0072b2"])] | None = None


class LabelChange(_Request):
    """New name, colour or thresholds of a label."""

    name: Annotated[str, Field(max_length=1000)] | None = None
    colour: Annotated[str, Field(max_length=40)] | None = None
    presence_threshold: Annotated[FiniteFloat, Field(ge=0, le=1)] | None = None
    mask_threshold: Annotated[FiniteFloat, Field(ge=0.02, le=0.98)] | None = None
    default_thresholds: bool = False
    """Back to those of the model and of the examples."""


class ProjectChange(_Request):
    """New settings of the project."""

    exclusive: bool
    """Whether a pixel has one label at most."""


class VisibleImages(_Request):
    """Images on screen, in order."""

    ids: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=10_000)]


class CheckedChange(_Request):
    """Whether a person has confirmed the masks; if not, what was decided but for examples is taken back."""

    checked: bool
    masks: dict[Annotated[str, Field(max_length=20)], int] | None = None
    """Label id to the revision of the mask that was seen: where one has changed since, nothing is confirmed."""


class AssistRequest(_Request):
    """Prompts for one mask, in pixels of the upright image."""

    label: LabelId | None = None
    points: Annotated[list[tuple[Coordinate, Coordinate, Literal[0, 1]]], Field(max_length=1000)] = []
    """x, y, and 1 for inside or 0 for outside."""
    box: tuple[Coordinate, Coordinate, Coordinate, Coordinate] | None = None
    """x0, y0, x1, y1."""
    scribble: Annotated[list[tuple[Coordinate, Coordinate]], Field(max_length=5000)] | None = None
    mode: Literal["superpixel", "grow"] = "grow"
    size: Annotated[FiniteFloat, Field(ge=0, le=1)] = 0.5
    """From the smallest region to the largest."""


class ExportRequest(_Request):
    """Formats and choice of images."""

    formats: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=40)] = ["png"]
    which: Literal["all", "checked"] = "all"
    """All images, or those with a hand-made or confirmed mask."""
