"""The content of an annotation project as a value: labels, hand-made masks, and the history of changes.

Applying a `Change` gives the new state and the inverse change, so that undo and redo are the same operation and a
history is a list of changes that can be saved.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, TypeAlias

from fewseg.core.errors import FewsegError

FORMAT: Final = "fewseg.project.v1"

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


@dataclass(frozen=True)
class Annotation:
    """A hand-made mask."""

    file: str
    """File name of the mask."""
    digest: str
    """Hash of the mask's pixels."""
    revision: int
    """Revision of the project in which it was made."""

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
    undo: tuple[Change, ...] = ()
    redo: tuple[Change, ...] = ()

    @property
    def files(self) -> frozenset[str]:
        """Files of the masks in use now, or after some undo or redo."""
        kept = {a.file for a in self.annotations.values()}
        for change in (*self.undo, *self.redo):
            kept |= {a.file for a in change.annotations.values() if a is not None}
        return frozenset(kept)

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
    )
    new = replace(
        state,
        revision=state.revision + 1,
        labels=state.labels if change.labels is None else change.labels,
        annotations=annotations,
        checked=frozenset(checked),
    )
    return new, inverse


def do(state: State, change: Change) -> State:
    """The state after a new change, which can be undone; the redo history is dropped."""
    new, inverse = apply(state, change)
    return replace(new, undo=(*state.undo, inverse)[-HISTORY:], redo=())


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


def to_json(state: State) -> dict[str, Any]:
    """The state as JSON values, the inverse of `from_json`."""
    return {
        "format": FORMAT,
        "revision": state.revision,
        "next_label": state.next_label,
        "labels": [asdict(label) for label in state.labels],
        "pictures": [asdict(image) for image in state.known.values()],
        "annotations": _annotations_to_json(state.annotations),
        "checked": sorted(state.checked),
        "undo": [_change_to_json(change) for change in state.undo],
        "redo": [_change_to_json(change) for change in state.redo],
    }


def from_json(values: Any) -> State:
    """The state from the JSON values of a project file; raises `InvalidProject` with the reason."""
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        given = values.get("format") if isinstance(values, dict) else type(values).__name__
        raise InvalidProject(f"its format is {given!r}, not {FORMAT!r}")
    try:
        known = [KnownImage(**_typed(KnownImage, image)) for image in values["pictures"]]
        state = State(
            revision=int(values["revision"]),
            next_label=int(values["next_label"]),
            labels=_labels(values["labels"]),
            annotations={p: a for p, a in _annotations_from_json(values["annotations"]).items() if a is not None},
            checked=frozenset(str(image) for image in values["checked"]),
            known={image.id: image for image in known},
            undo=tuple(_change_from_json(change) for change in values["undo"]),
            redo=tuple(_change_from_json(change) for change in values["redo"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidProject(f"it lacks or garbles {error}") from error
    ids = [label.id for label in state.labels]
    stray = {label for _, label in state.annotations} - set(ids)
    if len(set(ids)) < len(ids) or stray or not state.annotations.keys() <= {(p, i) for p in state.known for i in ids}:
        raise InvalidProject("its masks, labels and images do not fit each other")
    return replace(state, next_label=max([state.next_label, *(i + 1 for i in ids)]))


def _change_to_json(change: Change) -> dict[str, Any]:
    return {
        "text": change.text,
        "labels": None if change.labels is None else [asdict(label) for label in change.labels],
        "annotations": _annotations_to_json(change.annotations),
        "checked": dict(change.checked),
    }


def _change_from_json(values: Mapping[str, Any]) -> Change:
    return Change(
        str(values["text"]),
        None if values["labels"] is None else _labels(values["labels"]),
        _annotations_from_json(values["annotations"]),
        {str(image): bool(value) for image, value in values["checked"].items()},
    )


def _labels(values: Any) -> tuple[Label, ...]:
    labels = tuple(Label(**_typed(Label, label)) for label in values)
    if not all(re.fullmatch("#[0-9a-f]{6}", label.colour) for label in labels):
        raise ValueError("a label's colour")
    return labels


def _annotations_to_json(annotations: Mapping[Place, Annotation | None]) -> list[dict[str, Any]]:
    return [
        {"picture": image, "label": label, "mask": None if annotation is None else asdict(annotation)}
        for (image, label), annotation in annotations.items()
    ]


def _annotations_from_json(values: Any) -> dict[Place, Annotation | None]:
    annotations: dict[Place, Annotation | None] = {}
    for value in values:
        mask = value["mask"]
        annotation = None if mask is None else Annotation(**_typed(Annotation, mask))
        if annotation is not None and not re.fullmatch(r"[\w-]+\.png", annotation.file):
            raise ValueError("the name of a mask")  # a project file from elsewhere must not name files outside
        annotations[str(value["picture"]), int(value["label"])] = annotation
    return annotations


def _typed(kind: type, values: Any) -> dict[str, Any]:
    """The fields of a dataclass among JSON values; raises `TypeError` for values of other types."""
    kinds = {"int": int, "str": str}
    for name, annotation in kind.__annotations__.items():
        if not isinstance(values[name], kinds[annotation]):
            raise TypeError(f"{kind.__name__.lower()}.{name}")
    return {name: values[name] for name in kind.__annotations__}
