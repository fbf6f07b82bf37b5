"""What Label Studio calls: `/health` and `/setup` to connect, `/predict` for tasks, `/webhook` for annotations."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Request
from starlette.concurrency import run_in_threadpool

from fewseg.core.errors import FewsegError
from fewseg.server.api_errors import ApiError, error_responses
from fewseg.server.bodies import JsonRoute
from fewseg.server.label_studio.backend import LabelStudio, StudioProject
from fewseg.server.label_studio.config import MaskTag
from fewseg.server.label_studio.regions import masks_of, results_of
from fewseg.server.label_studio.schemas import Event, Learnt, Predict, Predictions, Setup, TaskPrediction, Version

log = logging.getLogger(__name__)

_TAUGHT: Final = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED")


def router(studio: LabelStudio) -> APIRouter:
    """The routes, to be included below `/label-studio`."""
    routes = APIRouter(tags=["Label Studio"], route_class=JsonRoute)

    @routes.get("/health")
    async def health() -> dict[str, str]:
        """Whether the back end is up."""
        return {"status": "UP", "model_class": "fewseg"}

    @routes.post("/setup", responses=error_responses(429))
    async def setup(request: Setup) -> Version:
        """Label Studio connects a project; its configuration needs BrushLabels, BitmaskLabels or PolygonLabels."""
        project = studio.project(request.project, request.schema_, request.access_token)
        return Version(model_version=studio.version(project))

    @routes.post("/predict", responses=error_responses(429))
    async def predict(request: Predict, http: Request) -> Predictions:
        """Masks of tasks. A task whose image cannot be used gets none; it is an error if that is every task."""
        return await _predict(studio, request, http.is_disconnected)

    @routes.post("/webhook", status_code=201, responses=error_responses(429))
    async def webhook(event: Annotated[Event, Body()]) -> Learnt:
        """Learn from an annotation that was created, changed or deleted; other events are ignored."""
        number = (event.project or {}).get("id")
        project = studio.project(number, str((event.project or {}).get("label_config") or ""))
        if event.action in _TAUGHT:
            await _learn_all(studio, number, project, _annotated(event))
        elif event.action == "ANNOTATIONS_DELETED":
            for annotation in event.annotations or []:
                studio.keep(number, project, str(annotation.get("id")), None)
        return Learnt(model_version=studio.version(project), taught=studio.shots(project))

    return routes


async def _predict(studio: LabelStudio, request: Predict, is_gone: Callable[[], Awaitable[bool]]) -> Predictions:
    """The predictions of all tasks; those of a request that breaks off are kept for its repetition."""
    project = studio.project(request.project, request.label_config)
    tags, version = project.tags(), studio.version(project)
    empty = TaskPrediction(result=[], score=0.0, model_version=version)
    made: list[TaskPrediction] = []
    errors: list[str] = []
    for number, task in enumerate(request.tasks if project.examples else []):
        if number and await is_gone():
            log.warning(
                "Label Studio hung up after %s of %s tasks; a repetition goes on there", number, len(request.tasks)
            )
            raise ApiError(503, "the client has hung up")
        try:
            made.append(await _predicted(studio, project, task, tags, version))
        except (FewsegError, ApiError) as error:
            if isinstance(error, ApiError) and error.status_code == 503:
                raise
            errors.append(_one_line(error))
            log.warning("task %s: %s", _short(task.get("id")), errors[-1])
            made.append(empty)
    if errors and len(errors) == len(request.tasks):
        raise ApiError(422, f"no image could be used: {errors[0]}")
    return Predictions(results=made or [empty for _ in request.tasks], model_version=version)


async def _predicted(
    studio: LabelStudio, project: StudioProject, task: Mapping[str, Any], tags: Sequence[MaskTag], version: str
) -> TaskPrediction:
    """The prediction of a task; made once for the same image, examples and tags."""
    queue = studio.services.queue
    file = await run_in_threadpool(studio.open, project, task, tags)
    digest = await run_in_threadpool(lambda: hashlib.sha256(file.read()).hexdigest())
    key = (version, digest, tuple(tags))
    known = studio.predictions.get(key)
    if known is not None:
        return known
    file.seek(0)
    prediction = await queue.run(studio.segment, project, file)
    result = await queue.run(results_of, prediction, tags)
    scores = [prediction.scores[label] for label in {r["value"][r["type"]][0] for r in result}]
    score = round(sum(scores) / len(scores), 4) if scores else 0.0
    made = TaskPrediction(result=result, score=score, model_version=version)
    studio.predictions.put(key, made, sum(_size(region["value"]) for region in result))
    return made


def _size(value: Mapping[str, Any]) -> int:
    """About the bytes that a region takes in memory."""
    return 1000 + sum(200 * len(part) for part in value.values() if isinstance(part, list | str))


def _one_line(error: FewsegError | ApiError) -> str:
    return " ".join(str(error.detail if isinstance(error, ApiError) else error).split())


def _short(number: Any) -> str:
    """A received id, shortened to one line of the log."""
    return " ".join(str(number)[:30].split())


def _annotated(event: Event) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of annotation and task; several annotations refer to their tasks by id."""
    annotations = event.annotation if isinstance(event.annotation, list) else [event.annotation or {}]
    tasks = event.task if isinstance(event.task, list) else [event.task or {}]
    by_id = {task.get("id"): task for task in tasks}
    return [(a, tasks[0] if len(tasks) == 1 else by_id.get(a.get("task"), {})) for a in annotations]


async def _learn_all(
    studio: LabelStudio,
    number: Any,
    project: StudioProject,
    annotated: Sequence[tuple[dict[str, Any], dict[str, Any]]],
) -> None:
    """Learn every usable annotation, then raise the first error. Label Studio hides the response: errors are logged."""
    errors: list[FewsegError | ApiError] = []
    for annotation, task in annotated:
        try:
            await _learn(studio, number, project, annotation, task)
        except (FewsegError, ApiError) as error:
            log.warning("annotation %s: %s", _short(annotation.get("id")), _one_line(error))
            errors.append(error)
    if errors:
        raise errors[0]


async def _learn(
    studio: LabelStudio, number: Any, project: StudioProject, annotation: dict[str, Any], task: dict[str, Any]
) -> None:
    tags, name = project.tags(), str(annotation.get("id"))
    if annotation.get("was_cancelled"):  # the annotator skipped the task
        studio.keep(number, project, name, None)
        return
    queue = studio.services.queue
    masks, left_out = await queue.run(masks_of, annotation.get("result"), tags, studio.limits.pixels)
    if left_out:
        kinds = ", ".join(f"{number} {kind}" for kind, number in left_out.items())
        log.warning("annotation %s: regions left out: %s; brushes, bitmasks and polygons teach", _short(name), kinds)
    if not masks:
        studio.keep(number, project, name, None)
        return
    file = await run_in_threadpool(studio.open, project, task, tags)
    studio.keep(number, project, name, await queue.run(studio.encode, file, masks))
