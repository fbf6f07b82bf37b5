"""The labels of a project: every function gives the state after a change, or raises."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from fewseg.core.errors import InvalidOption
from fewseg.images.draw import label_colours
from fewseg.server.project.state import Change, Label, NotFound, State, amend, do

MAX_NAME_LENGTH: Final = 80
"""Greatest length of a label's name, in characters."""

MAX_LABELS: Final = 200


def find(state: State, identifier: int) -> Label:
    """The label; raises `NotFound`."""
    for label in state.labels:
        if label.id == identifier:
            return label
    raise NotFound(f"no label {identifier}: it may have been deleted; load the page again")


def added(state: State, name: str, colour: str | None = None) -> State:
    """With a further label; raises `InvalidOption` for an empty or taken name, or an invalid colour."""
    if len(state.labels) >= MAX_LABELS:
        raise InvalidOption(f"the project has {MAX_LABELS} labels, no more fit: delete one first")
    label = Label(state.next_label, _free_name(state, name), _colour(state, colour))
    change = Change(f"Add the label {label.name}", (*state.labels, label))
    return replace(do(state, change), next_label=state.next_label + 1)


def named(state: State, name: str) -> tuple[State, int]:
    """With a label of this name, and its id: the one that is there, or a further one, its name made fit."""
    plain = "".join(c if c.isprintable() else " " for c in " ".join(name.split()))[:MAX_NAME_LENGTH].strip() or "object"
    for label in state.labels:
        if label.name.casefold() == plain.casefold():
            return state, label.id
    state = added(state, plain)
    return state, state.labels[-1].id


def changed(state: State, identifier: int, name: str | None = None, colour: str | None = None) -> State:
    """With a label renamed or recoloured; raises as `added`, and `NotFound`."""
    before = find(state, identifier)
    new = replace(
        before,
        name=before.name if name is None else _free_name(state, name, identifier),
        colour=before.colour if colour is None else _colour(state, colour),
    )
    return state if new == before else do(state, _put(state, new, f"Change the label {before.name}"))


def with_thresholds(state: State, identifier: int, presence: float | None, mask: float | None) -> State:
    """With a label's thresholds set; settings that follow each other are one change. Raises `NotFound`."""
    before = find(state, identifier)
    new = replace(before, presence_threshold=presence, mask_threshold=mask)
    return state if new == before else amend(state, _put(state, new, f"Set the thresholds of {before.name}"))


def removed(state: State, identifier: int) -> State:
    """Without a label and its masks; raises `NotFound`."""
    gone = find(state, identifier)
    left = tuple(label for label in state.labels if label.id != identifier)
    masks = {place: None for place in state.annotations if place[1] == identifier}
    return do(state, Change(f"Delete the label {gone.name}", left, masks))


def _put(state: State, new: Label, text: str) -> Change:
    return Change(text, tuple(new if label.id == new.id else label for label in state.labels))


def _free_name(state: State, name: str, own: int | None = None) -> str:
    plain = " ".join(name.split())
    if not plain or len(plain) > MAX_NAME_LENGTH or not plain.isprintable():
        raise InvalidOption(f"label name {name[:100]!r}: give 1 to {MAX_NAME_LENGTH} printable characters")
    taken = [label.name for label in state.labels if label.id != own]
    if plain.casefold() in (other.casefold() for other in taken):
        raise InvalidOption(f"there is a label {plain!r} already: choose another name")
    return plain


def _colour(state: State, colour: str | None) -> str:
    if colour is not None:
        if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
            raise InvalidOption(f"colour {colour[:40]!r}: write it as #rrggbb")
        return colour.lower()
    used = {label.colour for label in state.labels}
    offered = label_colours([str(i) for i in range(len(used) + 1 + MAX_LABELS)]).values()
    plain = ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in offered]
    return next((colour for colour in plain if colour not in used), plain[0])
