"""Masks that the project file no longer names, because it was damaged, lost, or replaced by an older one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from fewseg.core.errors import InvalidMask
from fewseg.images.draw import label_colours
from fewseg.server.project import state as project_state
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.state import Annotation, Change, KnownImage, Label, State

_NAME: Final = re.compile(r"([\w-]+)-([0-9]{1,9})-([0-9]{1,15})\.png")
"""Image's id, label's id and revision in the name of a mask."""


def mask_name(image: str, label: int, revision: int) -> str:
    """Name of a mask's file, unlike that of every other mask of the project."""
    return f"{image}-{label}-{revision}.png"


def lost_masks(state: State, files: Iterable[str]) -> list[str]:
    """The names of masks that a later state than this one named, the oldest first.

    A state names masks of its own revision and before; whatever it leaves out of those, nobody needs any more.
    """
    found = [match for match in map(_NAME.fullmatch, files) if match and match[0] not in state.files]
    return [m[0] for m in sorted(found, key=lambda m: int(m[3])) if int(m[3]) >= max(1, state.revision)]


def labels_in(text: str) -> list[Label]:
    """The labels that can still be read in a damaged project file."""
    decoder, labels = json.JSONDecoder(), list[Label]()
    match = re.search(r'"labels":\s*\[\s*', text)
    place = match.end() if match else len(text)
    while text[place : place + 1] == "{":
        try:
            values, place = decoder.raw_decode(text, place)
            label = Label(int(values["id"]), str(values["name"]), str(values["colour"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            break
        if re.fullmatch("#[0-9a-f]{6}", label.colour):
            labels.append(label)
        place += len(text[place:]) - len(text[place:].lstrip(", \n"))
    return labels


def restore(
    state: State,
    masks: Sequence[str],
    labels: Sequence[Label],
    images: Mapping[str, ImageEntry],
    *,
    digest: Callable[[str], str],
    remember: Callable[[ImageEntry], KnownImage],
) -> tuple[State, list[str]]:
    """The state with the newest of the lost `masks` of each image and label, and the names of those not used.

    Labels that the state lacks are taken from `labels`, or named by number. `digest` hashes a mask's pixels or raises
    `InvalidMask`.
    """
    chosen: dict[project_state.Place, Annotation] = {}
    for name in masks:
        image, label, revision = _parts(name)
        with suppress(InvalidMask):
            if image in images and images[image].error is None:
                chosen[image, label] = Annotation(name, digest(name), revision)
    used = {annotation.file for annotation in chosen.values()}
    left = [name for name in masks if name not in used]
    if not chosen:
        return state, left
    known = {**state.known, **{image: remember(images[image]) for image, _ in chosen}}
    change = Change(f"Put back {len(chosen)} masks", _with_labels(state, {i for _, i in chosen}, labels), chosen)
    revision = max(state.revision, *(_parts(name)[2] for name in masks))
    new = project_state.do(replace(state, revision=revision, known=known), change)
    return replace(new, next_label=max([state.next_label, *(label.id + 1 for label in new.labels)])), left


def _parts(name: str) -> tuple[str, int, int]:
    match = _NAME.fullmatch(name)
    assert match is not None
    return match[1], int(match[2]), int(match[3])


def _with_labels(state: State, needed: set[int], labels: Sequence[Label]) -> tuple[Label, ...]:
    """The state's labels, and those of `needed` that it lacks, under names that are not taken."""
    all_labels = {label.id: label for label in state.labels}
    offered = {label.id: label for label in labels}
    for identifier in sorted(needed - all_labels.keys()):
        label = offered.get(identifier) or _numbered(identifier)
        taken = {other.name.casefold() for other in all_labels.values()}
        if label.name.casefold() in taken:
            label = replace(_numbered(identifier), colour=label.colour)
        all_labels[identifier] = label
    return tuple(all_labels.values())


def _numbered(identifier: int) -> Label:
    name = f"label {identifier}"
    return Label(identifier, name, "#{:02x}{:02x}{:02x}".format(*label_colours([name])[name]))
