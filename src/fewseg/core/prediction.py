"""The values of segmentation that need no torch: the ignored mask value, and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from fewseg.core.objects import Objects, ObjectsByLabel

IGNORE = 255
"""Mask value of pixels that count neither as foreground nor as background."""


@dataclass(frozen=True)
class Prediction:
    """What `Segmenter.segment` found in one image, at the image's own size (after EXIF rotation)."""

    masks: dict[str, NDArray[np.bool_]]
    """Label to mask (H, W); labels may overlap."""
    probabilities: dict[str, NDArray[np.float32]]
    """Label to foreground probability (H, W)."""
    label_map: NDArray[np.uint16]
    """(H, W): 0 background, i + 1 the i-th label; overlaps go to the label with the highest probability."""
    scores: dict[str, float]
    """Label to how sure we are that it is in the image at all, in [0, 1]."""
    present: dict[str, bool]
    """Label to whether its score reaches the threshold; never empties a mask."""
    objects: Mapping[str, Objects] = field(default_factory=dict)
    """Label to the single objects that its mask holds, found when asked for; labels of stuff are left out."""

    @property
    def labels(self) -> tuple[str, ...]:
        """In order of teaching; value 1 of `label_map` is the first."""
        return tuple(self.masks)

    def of_present(self) -> Prediction:
        """What is shown and exported: masks of labels that are not present are empty, and `label_map` lacks them.

        Their pixels go to the label that is present, covers them, and has the highest score.
        """
        absent = [i for i, label in enumerate(self.labels, 1) if not self.present[label]]
        if not absent:
            return self
        nothing = np.zeros(self.label_map.shape, np.bool_)
        masks = {label: mask if self.present[label] else nothing for label, mask in self.masks.items()}
        taken, label_map = np.isin(self.label_map, absent), self.label_map.copy()
        label_map[taken] = 0
        numbers = {label: i for i, label in enumerate(self.labels, 1) if self.present[label]}
        for label in sorted(numbers, key=self.scores.__getitem__):
            label_map[taken & masks[label]] = numbers[label]
        objects, (height, width) = self.objects, self.label_map.shape
        if isinstance(objects, ObjectsByLabel):
            objects = objects.without([label for label in self.labels if not self.present[label]], (height, width))
        return replace(self, masks=masks, label_map=label_map, objects=objects)
