"""Encoded examples of a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from fewseg.core.errors import InvalidSupport, did_you_mean
from fewseg.core.objects import Kind
from fewseg.core.types import SupportSet
from fewseg.inference.adaptation.adapted import AdaptedLabel
from fewseg.inference.adaptation.examples import Example
from fewseg.inference.objects.examples import ExampleObjects
from fewseg.inference.objects.shape import ObjectShape
from fewseg.inference.objects.typical import typical_object


@dataclass(frozen=True)
class LabelSupport:
    """Everything that is known of one label."""

    sets: tuple[SupportSet, ...]
    """The examples, encoded at each of the segmenter's input sizes."""
    digests: tuple[str, ...]
    """A hash of each example's pixels and mask: the same example has the same one on every device."""
    presence_threshold: float | None = None
    """Score from which the label counts as present, where it was fitted to these very examples; else the model's."""
    examples: tuple[Example | None, ...] = ()
    """Image and mask of every example, for `Segmenter.adapt`; None, or no tuple, where they are not at hand."""
    adaptation: AdaptedLabel | None = None
    """What was fitted to these very examples."""
    objects: tuple[ExampleObjects | None, ...] = ()
    """The regions of every example's mask, which tell single objects apart; None, or no tuple, where not known."""
    kind: Kind | None = None
    """Whether the label is one of things or of stuff, where somebody said it."""

    @property
    def shots(self) -> int:
        return len(self.digests)

    @cached_property
    def shape(self) -> ObjectShape:
        """The label's typical object."""
        return typical_object(self.objects, self.kind)

    @classmethod
    def concatenate(cls, parts: Sequence[LabelSupport]) -> LabelSupport:
        """All shots of all parts."""
        sets = zip(*(part.sets for part in parts), strict=True)
        digests = tuple(d for part in parts for d in part.digests)
        examples = tuple(e for part in parts for e in part.examples or (None,) * part.shots)
        objects = tuple(o for part in parts for o in part.objects or (None,) * part.shots)
        kind = next((part.kind for part in parts if part.kind), None)
        joined = tuple(SupportSet.concatenate(s) for s in sets)
        return cls(joined, digests, examples=examples, objects=objects, kind=kind)

    def drop(self, shot: int) -> LabelSupport:
        """All shots but one."""
        return self.select([i for i in range(self.shots) if i != shot % self.shots])

    def select(self, shots: Sequence[int]) -> LabelSupport:
        """The named shots only, without what was fitted to all of them."""
        return LabelSupport(
            tuple(s.select(shots) for s in self.sets),
            tuple(self.digests[i] for i in shots),
            examples=tuple(self.examples[i] for i in shots) if self.examples else (),
            objects=tuple(self.objects[i] for i in shots) if self.objects else (),
            kind=self.kind,
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> LabelSupport:
        """A copy on `device` as `dtype`."""
        adaptation = self.adaptation and self.adaptation.to(device)
        return replace(self, sets=tuple(s.to(device, dtype) for s in self.sets), adaptation=adaptation)


def unknown_label(label: str, known: Sequence[str]) -> InvalidSupport:
    """The error for a label that was never taught, with the nearest ones."""
    every = f"taught: {', '.join(map(repr, known)) or 'none yet'}"
    return InvalidSupport(f"no label {label!r}; {did_you_mean(label, known) or every}")


def check_label(label: str) -> None:
    """Raise `InvalidSupport` for anything that cannot be the name of a label."""
    if not isinstance(label, str) or not label.strip():
        what = "is empty" if isinstance(label, str) else f"is of type {type(label).__name__}"
        raise InvalidSupport(f"label {label!r} {what}: give the class a name")
    if not label.isprintable():  # line breaks and the like would break lists, file names and pages of labels
        raise InvalidSupport(f"label {label!r} has characters that cannot be shown: leave them out")
