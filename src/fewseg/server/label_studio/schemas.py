"""Bodies of Label Studio's requests and of the responses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Setup(BaseModel):
    """A project that connects to the back end."""

    model_config = ConfigDict(extra="ignore")
    project: str | int | None = None
    schema_: str = Field("", alias="schema", description="The labelling configuration.")
    access_token: str | None = None


class Version(BaseModel):
    """A version that changes with the model and with the examples."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model_version": "dcama-6f1d2c3b-91ac03de"}]})
    model_version: str


class Predict(BaseModel):
    """Tasks to segment."""

    model_config = ConfigDict(extra="ignore")
    tasks: list[dict[str, Any]]
    project: str | int | None = None
    label_config: str | None = None


class TaskPrediction(BaseModel):
    """Masks of one task."""

    result: list[dict[str, Any]] = Field(description="Regions, as Label Studio has them.")
    score: float = Field(description="Mean score of the present labels; 0 where none is.")
    model_version: str


class Predictions(Version):
    """Masks of all tasks, in order."""

    results: list[TaskPrediction]


class Event(BaseModel):
    """An event in Label Studio."""

    model_config = ConfigDict(extra="ignore")
    action: str
    annotation: dict[str, Any] | list[dict[str, Any]] | None = None
    annotations: list[dict[str, Any]] | None = None
    task: dict[str, Any] | list[dict[str, Any]] | None = None
    project: dict[str, Any] | None = None


class Learnt(Version):
    """The project's examples after an event."""

    taught: dict[str, int] = Field(description="Labels with the number of their examples.")
