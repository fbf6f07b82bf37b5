"""The objects of masks, found when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidMask
from fewseg.core.objects import Objects, ObjectsByLabel
from fewseg.inference.objects.separate import separate
from fewseg.inference.objects.shape import ObjectShape

_UNKNOWN = ObjectShape()


def find_objects(
    mask: NDArray[np.bool_], shape: ObjectShape = _UNKNOWN, confidence: NDArray[Any] | None = None
) -> Objects:
    """The single objects of a label's mask (H, W), bool.

    Args:
        mask: True where the label is.
        shape: the typical object, as `Segmenter.object_shapes` has it; convexity alone tells objects apart without.
        confidence: foreground probabilities (H, W), or those of every k-th pixel of every k-th row, for the scores.

    Raises `InvalidMask` for a mask that is no bool array (H, W).

    Examples:
        >>> import numpy as np
        >>> mask = np.zeros((20, 40), bool)
        >>> mask[5:15, 5:15] = mask[5:15, 25:35] = True
        >>> [one.box for one in find_objects(mask)]
        [(5, 5, 15, 15), (25, 5, 35, 15)]
    """
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise InvalidMask(f"a mask of shape {mask.shape}, {mask.dtype}: give bool (H, W), as mask == 1")
    return Objects(separate(mask, shape), confidence)


def objects_of(
    masks: Mapping[str, NDArray[np.bool_]],
    shapes: Mapping[str, ObjectShape],
    confidences: Mapping[str, NDArray[Any]],
) -> ObjectsByLabel:
    """The objects of each label's mask, by its typical object; labels of stuff have none."""
    known = {label: shapes.get(label, _UNKNOWN) for label in masks}
    makers = {
        label: partial(find_objects, mask, known[label], confidences.get(label))
        for label, mask in masks.items()
        if known[label].kind == "thing"
    }
    return ObjectsByLabel(makers, stuff=tuple(label for label in masks if label not in makers))
