"""The content of an annotation project as a value: labels, hand-made masks, and the history of changes.

Applying a `Change` gives the new state and the inverse change, so that undo and redo are the same operation and a
history is a list of changes that can be saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from fewseg.core.errors import FewsegError

HISTORY: Final = 500
"""Number of changes that can be undone; older ones are dropped."""

Place: TypeAlias = tuple[str, int]
"""An image's id and a label's."""


class InvalidProject(FewsegError):
    """A project cannot be opened, or does not allow the requested change."""


class NotFound(FewsegError):
    """No such image, label or mask."""


@dataclass(frozen=True)
class Label:
    """A class of objects to segment."""

    id: int
    name: str
    colour: str
    """`#rrggbb`."""
    presence_threshold: float | None = None
    """Score from which the label is shown in an image; None for that of the model and the examples."""
    mask_threshold: float | None = None
    """Probability from which a pixel belongs to the mask; None for the model's."""


EXAMPLE: Final = "example"
CHECKED: Final = "checked"
ABSENT: Final = "absent"


@dataclass(frozen=True)
class Annotation:
    """What a person decided about one label in one image."""

    file: str
    """File name of the mask; empty where the label is absent."""
    digest: str
    """Hash of the mask's pixels."""
    revision: int
    """Revision of the project in which it was made."""
    kind: str = EXAMPLE
    """`EXAMPLE`: a mask that teaches; `CHECKED`: a mask that was confirmed; `ABSENT`: the label is not in the image."""
    area: int = -1
    """Pixels of the mask; -1 where an earlier version did not count them."""

    @property
    def content(self) -> int:
        """Integer hash of the pixels, for browsers' caches: other folders have masks of the same revision."""
        return int(hashlib.sha256(ascii(self.digest).encode()).hexdigest()[:12], 16)  # may be any text


@dataclass(frozen=True)
class KnownImage:
    """Identity of an image with annotations, by which it is recognised under another name."""

    id: str
    path: str
    """Relative to the project's folder, with forward slashes."""
    bytes: int
    mtime_ns: int
    digest: str
    """Hash of the file's content."""
    width: int
    height: int


@dataclass(frozen=True)
class Change:
    """Values to set; None leaves a part as it is."""

    text: str
    """Description for the user of what it does, or undoes."""
    labels: tuple[Label, ...] | None = None
    annotations: Mapping[Place, Annotation | None] = field(default_factory=dict)
    """None removes the annotation."""
    checked: Mapping[str, bool] = field(default_factory=dict)
    exclusive: bool | None = None


@dataclass(frozen=True)
class State:
    """The saved content of a project."""

    revision: int = 0
    next_label: int = 1
    labels: tuple[Label, ...] = ()
    annotations: Mapping[Place, Annotation] = field(default_factory=dict)
    checked: frozenset[str] = frozenset()
    """Images whose masks a person has confirmed."""
    known: Mapping[str, KnownImage] = field(default_factory=dict)
    """Images with annotations, now or in the history, and checked ones, by id."""
    exclusive: bool = True
    """Whether a pixel has one label at most."""
    ignored: frozenset[str] = frozenset()
    """Names of files that are no images to label: masks that were imported."""
    undo: tuple[Change, ...] = ()
    redo: tuple[Change, ...] = ()

    @property
    def files(self) -> frozenset[str]:
        """Files of the masks in use now, or after some undo or redo."""
        kept = {a.file for a in self.annotations.values()}
        for change in (*self.undo, *self.redo):
            kept |= {a.file for a in change.annotations.values() if a is not None}
        return frozenset(kept - {""})

    @property
    def worked_on(self) -> frozenset[str]:
        """Ids of images whose identity must be kept: those with annotations or confirmed, now or in the history."""
        kept = {image for image, _ in self.annotations} | self.checked
        for change in (*self.undo, *self.redo):
            kept |= {image for image, _ in change.annotations} | set(change.checked)
        return frozenset(kept)


def apply(state: State, change: Change) -> tuple[State, Change]:
    """The state after a change, its revision incremented, and the inverse change; histories are left as they are."""
    annotations, checked = dict(state.annotations), set(state.checked)
    for place, annotation in change.annotations.items():
        if annotation is None:
            annotations.pop(place, None)
        else:
            annotations[place] = annotation
    for image, value in change.checked.items():
        (checked.add if value else checked.discard)(image)
    inverse = Change(
        change.text,
        None if change.labels is None else state.labels,
        {place: state.annotations.get(place) for place in change.annotations},
        {image: image in state.checked for image in change.checked},
        None if change.exclusive is None else state.exclusive,
    )
    new = replace(
        state,
        revision=state.revision + 1,
        labels=state.labels if change.labels is None else change.labels,
        annotations=annotations,
        checked=frozenset(checked),
        exclusive=state.exclusive if change.exclusive is None else change.exclusive,
    )
    return new, inverse


def do(state: State, change: Change) -> State:
    """The state after a new change, which can be undone; the redo history is dropped."""
    new, inverse = apply(state, change)
    return replace(new, undo=(*state.undo, inverse)[-HISTORY:], redo=())


def amend(state: State, change: Change) -> State:
    """The state after a change that continues the last one, as a slider's does: both are undone in one step."""
    if state.redo or not state.undo or state.undo[-1].text != change.text:
        return do(state, change)
    return replace(apply(state, change)[0], undo=state.undo)


def undo(state: State) -> State:
    """The state with the last change undone; raises `InvalidProject` where there is none."""
    if not state.undo:
        raise InvalidProject("nothing to undo: no change has been made yet")
    new, inverse = apply(state, state.undo[-1])
    return replace(new, undo=state.undo[:-1], redo=(*state.redo, inverse))


def redo(state: State) -> State:
    """The state with the last undone change made again; raises `InvalidProject` where there is none."""
    if not state.redo:
        raise InvalidProject("nothing to redo: nothing was undone since the last change")
    new, inverse = apply(state, state.redo[-1])
    return replace(new, undo=(*state.undo, inverse)[-HISTORY:], redo=state.redo[:-1])
