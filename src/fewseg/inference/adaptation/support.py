"""Adapts a label of a segmenter: the frozen model's evidence on each example, then the fit."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fewseg.core.errors import InvalidSupport
from fewseg.inference.adaptation.adapted import AdaptedLabel
from fewseg.inference.adaptation.examples import Example, scenes
from fewseg.inference.adaptation.fit import Task, adapt_label
from fewseg.inference.adaptation.report import Adaptation
from fewseg.inference.model import InferenceModel
from fewseg.inference.predict import predict_probabilities
from fewseg.inference.supports import LabelSupport


def adapt_support(model: InferenceModel, label: str, support: LabelSupport, **options: Any) -> AdaptedLabel:
    """The adaptation of a label, whose report says whether to use it; options as in `adapt_label`.

    With one example, or without background in any, it has no networks. Raises `InvalidSupport` where the examples'
    images are not at hand.
    """
    examples = [example for example in support.examples if example is not None]
    if len(examples) < support.shots:
        raise InvalidSupport(f"{label!r} was taught in a file, which holds no images: teach its examples again")
    if support.shots == 1 or not any((example.mask == 0).any() for example in examples):
        report = Adaptation(label, support.shots, False, math.nan, math.nan, (), 0.0)
        return AdaptedLabel((), {}, (), report)
    scene = scenes(examples)
    frozen = tuple(_left_out(model, support, number, scene, example) for number, example in enumerate(examples))
    with torch.inference_mode(False), torch.enable_grad():  # wherever it is called from
        fitted = adapt_label(model.method, Task(label, tuple(examples), tuple(scene), frozen), **options)
    return fitted.to(model.method.device)


def _left_out(model: InferenceModel, support: LabelSupport, number: int, scene: list[int], example: Example) -> Tensor:
    """Foreground probabilities (s, s) of an example by the model that is taught with the other scenes' examples."""
    others = [other for other, own in enumerate(scene) if own != scene[number]]
    prepared = model.preprocess(example.image)
    return predict_probabilities(model.method, model.encode([prepared]), [support.select(others)])[0, 0]
