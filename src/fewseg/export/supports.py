"""Encoded supports as a `.npz` that needs numpy alone: for programs that run an exported query graph."""

from __future__ import annotations

import io
import os
from typing import Any, Final

import numpy as np
import torch

from fewseg.core.errors import InvalidOption
from fewseg.core.files import write_bytes
from fewseg.export.graphs import joined_tensors
from fewseg.inference.segmenter import Segmenter

SUPPORTS: Final = "supports.npz"
"""Usual name of the file."""


def check_supports(segmenter: Segmenter) -> None:
    """Raises what `save_supports` does for a segmenter that it cannot write."""
    check_averages(segmenter)
    if adapted := [label for label, support in segmenter.supports.items() if support.adaptation]:
        raise InvalidOption(
            f"{', '.join(map(repr, adapted))}: what was fitted to the examples is not in encoded examples; export the "
            "whole segmenter, fewseg export --segmenter FILE"
        )


def check_averages(segmenter: Segmenter) -> None:
    """Raise `InvalidSupport` where nothing was taught, `InvalidOption` where the segmenter averages."""
    segmenter.require_labels()
    if segmenter.tta_flip or segmenter.tta_scales != (1.0,):
        raise InvalidOption(
            f"the segmenter averages (tta_flip {segmenter.tta_flip}, tta_scales {segmenter.tta_scales}), exported "
            "graphs do not: teach one with tta_flip=False, tta_scales=(1.0,)"
        )


def label_thresholds(segmenter: Segmenter) -> list[float]:
    """The presence threshold of every label, in order of teaching."""
    rule = segmenter.presence_rule
    return [rule.threshold_of(label) for label in segmenter.labels]


@torch.no_grad()
def save_supports(segmenter: Segmenter, path: str | os.PathLike[str]) -> None:
    """Write all labels of a segmenter to a `.npz`, atomically; read it with `numpy.load`, no pickle.

    `labels` are the names, `fingerprint` the model's, `image_size` the side of its input, `presence_thresholds` the
    score of each label from which it counts as present, `presence_threshold` that of labels to come, and
    `presence_scale` the two numbers of a `PresenceScale`. The tensors of the first label are `0/NAME`, those of the
    second `1/NAME` and so on, named as the inputs of `query.onnx` and `join.onnx`: the shots' (1, n, ...), and
    `joined.*`. Each array has a checksum, which `numpy.load` compares.

    Raises:
        InvalidSupport: nothing has been taught. InvalidOption: the segmenter averages flips or sizes, which exported
            graphs do not, or labels are adapted. OutputError: the file cannot be written.
    """
    check_supports(segmenter)
    method = segmenter.method
    arrays: dict[str, Any] = {
        "labels": np.array(segmenter.labels, dtype=np.str_),
        "fingerprint": np.array(segmenter.model_fingerprint),
        "image_size": np.array(method.config.image_size),
        "presence_threshold": np.array(segmenter.presence_threshold),
        "presence_thresholds": np.array(label_thresholds(segmenter)),
        "presence_scale": np.array(segmenter.presence_scale),
    }
    for place, support in enumerate(segmenter.supports.values()):
        (encoded,) = support.sets
        tensors = {**encoded.tensors, **joined_tensors(method, encoded)}
        arrays |= {f"{place}/{name}": tensor.float().cpu().numpy() for name, tensor in tensors.items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
