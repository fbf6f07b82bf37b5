"""The presence threshold of a label, by its examples and by images that do not show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from fewseg.images import ImageLike
from fewseg.inference.model import InferenceModel
from fewseg.inference.predict import predict_labels
from fewseg.inference.supports import LabelSupport
from fewseg.models.presence import task_threshold

ENOUGH: Final = 3
"""Examples from which each is left out in turn: one of two says too little."""

AT_MOST: Final = 10
"""Examples that are left out, each for one more image through the model."""


def fitted_threshold(
    model: InferenceModel, support: LabelSupport, images: Sequence[ImageLike], refused: Sequence[ImageLike]
) -> float | None:
    """The threshold nearest the model's with the fewest wrong answers, see `task_threshold`; None without answers.

    Each of the first `images`, those of the examples in order, is scored with the help of the other examples, `refused`
    with that of all. An adapted label knows its examples' scores. Raises `InvalidImage`.
    """
    shots = images[:AT_MOST] if support.shots >= ENOUGH else ()
    if support.adaptation is not None and shots:
        found = [model.presence_scale(peak) for peak in support.adaptation.peaks]
    else:
        found = [_score(model, support.drop(shot), image) for shot, image in enumerate(shots)]
    others = [_score(model, support, image) for image in refused]
    return task_threshold(found, others, model.presence_threshold) if found or others else None


def _score(model: InferenceModel, support: LabelSupport, image: ImageLike) -> float:
    (coarse,) = predict_labels(model.method, model.encode([model.preprocess(image)]), [support])
    return model.presence_rule.scores(coarse)[0]
