"""The content of an annotation project as JSON values, those of earlier versions included."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, Final

from fewseg.server.project.state import (
    ABSENT,
    CHECKED,
    EXAMPLE,
    Annotation,
    Change,
    InvalidProject,
    KnownImage,
    Label,
    Place,
    State,
)

FORMAT: Final = "fewseg.project.v1"


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
        "exclusive": state.exclusive,
        "ignored": sorted(state.ignored),
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
            exclusive=bool(values.get("exclusive", True)),
            ignored=frozenset(str(name) for name in values.get("ignored", ())),
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
        "exclusive": change.exclusive,
    }


def _change_from_json(values: Mapping[str, Any]) -> Change:
    return Change(
        str(values["text"]),
        None if values["labels"] is None else _labels(values["labels"]),
        _annotations_from_json(values["annotations"]),
        {str(image): bool(value) for image, value in values["checked"].items()},
        None if values.get("exclusive") is None else bool(values["exclusive"]),
    )


def _labels(values: Any) -> tuple[Label, ...]:
    labels = tuple(Label(**_typed(Label, label)) for label in values)
    if not all(re.fullmatch("#[0-9a-f]{6}", label.colour) for label in labels):
        raise ValueError("a label's colour")
    if not all(
        0 <= v <= 1 for label in labels for v in (label.presence_threshold, label.mask_threshold) if v is not None
    ):
        raise ValueError("a label's thresholds")
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
        if annotation is not None:
            _check(annotation)
        annotations[str(value["picture"]), int(value["label"])] = annotation
    return annotations


def _check(annotation: Annotation) -> None:
    """Raise `ValueError` where it is none that this version wrote."""
    if annotation.kind not in (EXAMPLE, CHECKED, ABSENT):
        raise ValueError("the kind of a mask")
    if (annotation.kind == ABSENT) != (not annotation.file):
        raise ValueError("the file of a mask")
    if annotation.file and not re.fullmatch(r"[\w-]+\.png", annotation.file):
        raise ValueError("the name of a mask")  # a project file from elsewhere must not name files outside


_KINDS: Final[dict[str, tuple[type, ...]]] = {"int": (int,), "str": (str,), "float | None": (int, float, type(None))}


def _typed(kind: type, values: Any) -> dict[str, Any]:
    """The fields of a dataclass among JSON values, those with a default where they are there.

    Raises `TypeError` for values of other types.
    """
    typed = {}
    for name, annotation in kind.__annotations__.items():
        if name not in values and hasattr(kind, name):
            continue  # earlier versions did not write it
        if not isinstance(values[name], _KINDS[annotation]):
            raise TypeError(f"{kind.__name__.lower()}.{name}")
        typed[name] = values[name]
    return typed
