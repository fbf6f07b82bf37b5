"""Sessions and masks as clients of the API see them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fewseg.core.types import Prediction
from fewseg.formats.write_coco import rle_entry, rle_of_mask
from fewseg.server.model import ServedModel, memory
from fewseg.server.problems import Problem
from fewseg.server.sessions.schemas import Found, FoundLabel, LabelInfo, Rle, SessionInfo
from fewseg.server.sessions.sessions import Session, Sessions


def describe(sessions: Sessions, session: Session) -> SessionInfo:
    """A session, its labels and their examples."""
    return SessionInfo(
        id=session.id,
        name=session.name,
        created=session.created,
        expires_in=sessions.seconds_left(session.id),
        bytes=memory(session.supports),
        labels=[describe_label(session, label) for label in session.supports],
    )


def describe_label(session: Session, label: str) -> LabelInfo:
    """A label of a session, and the ids of its examples."""
    return LabelInfo(name=label, shots=list(session.shot_ids(label)))


def describe_found(model: ServedModel, found: Prediction, seconds: float) -> Found:
    """All that was found in an image; `seconds` is how long that took."""
    height, width = found.label_map.shape
    labels = [_found(name, found) for name in found.labels]
    return Found(width=width, height=height, labels=labels, model=model.version, seconds=round(seconds, 4))


def _found(name: str, found: Prediction) -> FoundLabel:
    rle, area, box = rle_entry(rle_of_mask(found.masks[name]))
    return FoundLabel(
        name=name,
        score=round(found.scores[name], 4),
        present=found.present[name],
        area=int(area),
        box=[int(v) for v in box] if area else None,
        rle=Rle(**rle),
    )


def run_lengths(mask: NDArray[np.bool_]) -> Rle:
    """A mask (H, W) as COCO's compressed run lengths."""
    return Rle(**rle_entry(rle_of_mask(mask))[0])


def negotiated(accept: str) -> Literal["json", "png"]:
    """The first of the formats that a client names in `Accept`; raises `Problem` 406."""
    for part in accept.lower().split(","):
        kind = part.split(";")[0].strip()
        if kind in ("application/json", "application/*", "*/*", ""):
            return "json"
        if kind in ("image/png", "image/*"):
            return "png"
    raise Problem(406, f"no answer as {accept[:100]!r}: accept application/json or image/png")
