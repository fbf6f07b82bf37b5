"""Which labels of which images have to be predicted again, as a value.

A label's masks depend on its own examples alone, so a change to one label leaves those of the others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from fewseg.server.project.images import ImageEntry
from fewseg.server.project.state import Annotation, Label, State


@dataclass(frozen=True)
class Shot:
    """An example: an image with a hand-made mask of one label."""

    image: ImageEntry
    annotation: Annotation

    @property
    def key(self) -> str:
        """Hash-based identifier: the same image file and mask give the same key."""
        return f"{self.image.identity}-{self.annotation.digest}"


@dataclass(frozen=True)
class Plan:
    """The examples of every label, for one state of the project."""

    state: State
    images: Mapping[str, ImageEntry]
    shots: Mapping[int, tuple[Shot, ...]]
    """Label id to its usable examples; labels without any are left out."""
    fingerprints: Mapping[int, str]
    """Label id to a hash of everything its masks depend on except the query image."""

    def wanted(self, image: ImageEntry) -> dict[int, str]:
        """Label id to the result key of an image, for every label without a hand-made mask in it."""
        if image.error is not None:
            return {}
        return {
            label: image.identity + fingerprint
            for label, fingerprint in self.fingerprints.items()
            if (image.id, label) not in self.state.annotations
        }

    def labels_of(self, image: ImageEntry) -> list[Label]:
        """The labels with a hand-made mask in an image."""
        return [label for label in self.state.labels if (image.id, label.id) in self.state.annotations]


def plan(state: State, images: Mapping[str, ImageEntry], model: str, unusable: Mapping[str, str]) -> Plan:
    """The plan for a state; `unusable` holds the keys of shots that could not be encoded."""
    shots: dict[int, tuple[Shot, ...]] = {}
    for (image, label), annotation in sorted(state.annotations.items()):
        file = images.get(image)
        if file is None or file.error is not None:
            continue
        shot = Shot(file, annotation)
        if shot.key not in unusable:
            shots[label] = (*shots.get(label, ()), shot)
    prints = {
        label: hashlib.sha256("\0".join([model, *(shot.key for shot in each)]).encode()).hexdigest()[:24]
        for label, each in shots.items()
    }
    return Plan(state, images, shots, prints)
