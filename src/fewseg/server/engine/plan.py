"""What there is to do: which labels of which images have to be found again, as a value.

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
    """An example: an image with its hand-made mask."""

    image: ImageEntry
    annotation: Annotation

    @property
    def key(self) -> str:
        """The same for the same pixels and mask."""
        return f"{self.image.identity}-{self.annotation.digest}"


@dataclass(frozen=True)
class Plan:
    """The examples of every label, for one state of the project."""

    state: State
    images: Mapping[str, ImageEntry]
    shots: Mapping[int, tuple[Shot, ...]]
    """Label id to its usable examples, for labels that have any."""
    fingerprints: Mapping[int, str]
    """Label id to a hash of all that decides its masks beside the image."""

    def wanted(self, image: ImageEntry) -> dict[int, str]:
        """Label id to the key of the result to be found for an image; hand-made masks stand."""
        if image.error is not None:
            return {}
        return {
            label: image.identity + fingerprint
            for label, fingerprint in self.fingerprints.items()
            if (image.id, label) not in self.state.annotations
        }

    def labels_of(self, image: ImageEntry) -> list[Label]:
        """The labels that are marked by hand in an image."""
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
