"""Examples that are probably not meant as they are: what to ask about them before they are taught."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
from numpy.typing import NDArray

_PARTS: Final = frozenset({"train", "training", "valid", "val", "validation", "test", "testing"})
"""Names of the parts of a data set; `train` alone may be the vehicle."""

_WHOLE: Final = 0.98
_MOST: Final = 0.5
_EDGE: Final = 0.95
"""Shares of the image, or of its edge, from which a mask is taken for full or inverted."""

MEANT: Final = "if it is meant, say so with --accept-doubtful (in Python check=False)"


def mask_doubt(mask: NDArray[np.uint8]) -> str:
    """What is odd about a mask (H, W) of 0 background, 1 label, 255 ignored; empty where nothing is."""
    inside = mask == 1
    share = float(np.count_nonzero(inside)) / (np.count_nonzero(mask != 255) or 1)
    if share >= _WHOLE:
        return f"covers the whole image ({share:.0%}): mark the object alone"
    edge = np.concatenate([inside[0], inside[-1], inside[:, 0], inside[:, -1]])
    if share >= _MOST and edge.mean() >= _EDGE:
        return f"covers the image's edge and {share:.0%} of the image: is it inverted (the object is 0)? Turn it round"
    return ""


def label_doubt(label: str, known: Iterable[str]) -> str:
    """What is odd about a label beside the others that are known; empty where nothing is."""
    others = [other for other in known if other != label]
    alike = [other for other in others if _plain(other) == _plain(label)]
    if alike:
        return f"label {label!r} differs from {alike[0]!r} by case or blanks only: they are kept apart, use one"
    part = label.casefold()
    if part in _PARTS and (part != "train" or _PARTS & {other.casefold() for other in others}):
        return f"label {label!r} is the name of a part of a data set: give the folder of that part, or name the class"
    return ""


def _plain(label: str) -> str:
    return "".join(label.casefold().split())
