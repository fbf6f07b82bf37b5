"""Sessions and predictions as bodies of responses."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fewseg.core.objects import DetectedObject, Objects
from fewseg.core.types import Prediction
from fewseg.formats.rle import rle_entry, rle_of_mask, rle_of_object
from fewseg.server.api_errors import ApiError
from fewseg.server.model import ServedModel, supports_bytes
from fewseg.server.sessions.schemas import LabelInfo, LabelPredictionBody, ObjectBody, PredictionBody, Rle, SessionInfo
from fewseg.server.sessions.sessions import SessionState, SessionStore


def describe(sessions: SessionStore, session: SessionState) -> SessionInfo:
    """A session, its labels and their examples."""
    return SessionInfo(
        id=session.id,
        name=session.name,
        created=session.created,
        expires_in=sessions.seconds_left(session.id),
        bytes=supports_bytes(session.supports),
        labels=[describe_label(session, label) for label in session.supports],
    )


def describe_label(session: SessionState, label: str) -> LabelInfo:
    """A label of a session, and the ids of its examples."""
    support = session.supports[label]
    adapted = support.adaptation is not None
    return LabelInfo(name=label, shots=list(session.shot_ids(label)), adapted=adapted, kind=support.shape.kind)


def describe_prediction(
    model: ServedModel, prediction: Prediction, seconds: float, *, objects: bool = False
) -> PredictionBody:
    """The prediction of every label in an image, which took `seconds`; with `objects` the single ones, too."""
    height, width = prediction.label_map.shape
    labels = [_describe_label_prediction(name, prediction, objects) for name in prediction.labels]
    return PredictionBody(width=width, height=height, labels=labels, model=model.version, seconds=round(seconds, 4))


def _describe_label_prediction(name: str, prediction: Prediction, objects: bool) -> LabelPredictionBody:
    rle, area, box = rle_entry(rle_of_mask(prediction.masks[name]))
    return LabelPredictionBody(
        name=name,
        score=round(prediction.scores[name], 4),
        present=prediction.present[name],
        area=int(area),
        box=[int(v) for v in box] if area else None,
        rle=Rle(**rle),
        **(_describe_objects(prediction.objects[name]) if objects and name in prediction.objects else {}),
    )


def _describe_objects(objects: Objects) -> dict[str, Any]:
    return {"count": len(objects), "objects": [_describe_object(one) for one in objects]}


def _describe_object(one: DetectedObject) -> ObjectBody:
    left, top, right, bottom = one.box
    about = {**one.as_json(), "box": [left, top, right - left, bottom - top]}
    return ObjectBody(**about, rle=Rle(**rle_entry(rle_of_object(one))[0]))


def run_lengths(mask: NDArray[np.bool_]) -> Rle:
    """A mask (H, W) as COCO's compressed run lengths."""
    return Rle(**rle_entry(rle_of_mask(mask))[0])


def negotiated(accept: str) -> Literal["json", "png"]:
    """The first supported format in an `Accept` header; raises `ApiError` 406 where there is none."""
    for part in accept.lower().split(","):
        kind = part.split(";")[0].strip()
        if kind in ("application/json", "application/*", "*/*", ""):
            return "json"
        if kind in ("image/png", "image/*"):
            return "png"
    raise ApiError(406, f"no answer as {accept[:100]!r}: accept application/json or image/png")
