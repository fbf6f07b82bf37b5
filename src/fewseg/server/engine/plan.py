"""Which labels of which images have to be predicted again, as a value.

A label's masks depend on its own examples alone, and on what was fitted to them, so a change to one label leaves those
of the others as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from fewseg.server.fitting import Fit
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.state import EXAMPLE, Annotation, State


@dataclass(frozen=True)
class Shot:
    """An example: an image with a mask of one label that teaches."""

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
    examples: Mapping[int, str]
    """Label id to a hash of the model and the label's examples."""
    fits: Mapping[int, Fit]
    """Label id to what is used of what was fitted to its examples."""
    fingerprints: Mapping[int, str]
    """Label id to a hash of everything its masks depend on except the query image."""

    def wanted(self, image: ImageEntry) -> dict[int, str]:
        """Label id to the result key of an image, for every label that it is no example of.

        Checked labels are among them: their scores tell from which score a label is present.
        """
        if image.error is not None:
            return {}
        return {
            label: image.identity + fingerprint
            for label, fingerprint in self.fingerprints.items()
            if self.kind(image, label) != EXAMPLE
        }

    def undecided(self, image: ImageEntry) -> dict[int, str]:
        """Label id to the result key of an image, for every label that a person decided nothing about in it."""
        return {k: v for k, v in self.wanted(image).items() if (image.id, k) not in self.state.annotations}

    def kind(self, image: ImageEntry, label: int) -> str | None:
        """What a person decided about a label in an image, see `Annotation.kind`."""
        annotation = self.state.annotations.get((image.id, label))
        return None if annotation is None else annotation.kind

    def decided(self, image: ImageEntry) -> dict[int, Annotation]:
        """Label id to what a person decided about it in an image."""
        found = ((label.id, self.state.annotations.get((image.id, label.id))) for label in self.state.labels)
        return {label: annotation for label, annotation in found if annotation is not None}

    def shot_keys(self, label: int) -> frozenset[str]:
        """The keys of a label's examples."""
        return frozenset(shot.key for shot in self.shots[label])

    def presence_threshold(self, label: int) -> float | None:
        """The score from which a label is present, where it was fitted to the label's examples."""
        return self.fits[label].presence_threshold if label in self.fits else None


def plan(
    state: State,
    images: Mapping[str, ImageEntry],
    model: str,
    unusable: Mapping[str, str],
    fits: Mapping[int, Fit] | None = None,
) -> Plan:
    """The plan for a state.

    `unusable` holds the keys of shots that could not be encoded, `fits` the latest fit of labels that have one.
    """
    shots: dict[int, tuple[Shot, ...]] = {}
    for (image, label), annotation in sorted(state.annotations.items()):
        file = images.get(image)
        if annotation.kind != EXAMPLE or file is None or file.error is not None:
            continue
        shot = Shot(file, annotation)
        if shot.key not in unusable:
            shots[label] = (*shots.get(label, ()), shot)
    examples = {label: _hash(model, *(shot.key for shot in each)) for label, each in shots.items()}
    used = {
        label: fit
        for label, fit in (fits or {}).items()
        if label in shots and fit.serves({shot.key for shot in shots[label]})
    }
    prints = {
        label: _hash(known, used[label].digest) if label in used and used[label].digest else known
        for label, known in examples.items()
    }
    return Plan(state, images, shots, examples, used, prints)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
