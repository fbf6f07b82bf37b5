"""Predictions of the demo: every query segmented by a segmenter that was taught its task, and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from fewseg.core.progress import ProgressCallback
from fewseg.core.types import Prediction
from fewseg.evaluation.metrics.iou import intersection_and_union
from fewseg.inference.segmenter import Segmenter
from fewseg.tools.demo.photographs import DemoTask, Query


@dataclass(frozen=True)
class Answer:
    """The prediction for one query, and its IoU."""

    task: DemoTask
    query: Query
    prediction: Prediction
    iou: dict[str, float]
    """Foreground IoU at the window's own size, for the labels that are in it."""
    seconds: float
    """Time of `Segmenter.segment`."""


def answer_all(
    segmenter: Segmenter, tasks: Sequence[DemoTask], progress: ProgressCallback | None = None
) -> list[Answer]:
    """Teach and ask every task in turn; the segmenter forgets one task before the next."""
    total = sum(len(task.queries) for task in tasks)
    answers: list[Answer] = []
    for task in tasks:
        for label in segmenter.labels:
            segmenter.forget(label)
        for label, views in task.support.items():
            for view in views:
                segmenter.teach(label, view.image(), view.mask(label))
        for query in task.queries:
            answers.append(_answer(segmenter, task, query))
            if progress is not None:
                progress(len(answers), total, task.title)
    return answers


def _answer(segmenter: Segmenter, task: DemoTask, query: Query) -> Answer:
    image = query.image()
    start = time.perf_counter()
    prediction = segmenter.segment(image)
    seconds = time.perf_counter() - start
    iou = {}
    for label in query.labels:
        both, either = intersection_and_union(prediction.masks[label][None], query.mask(label)[None])
        iou[label] = float(both[0, 1] / either[0, 1])  # a query's labels are in it: the union is never empty
    return Answer(task, query, prediction, iou, seconds)
