"""A folder of images to annotate: every change is on the disk before its request is answered.

Masks are predicted by `fewseg.server.engine.engine`, which listens to the changes.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidImage, InvalidMask, InvalidOption
from fewseg.images.draw import label_colours
from fewseg.server.project import state as project_state
from fewseg.server.project.images import ImageEntry, file_digest, scan
from fewseg.server.project.recovery import lost_masks, mask_name, restore
from fewseg.server.project.state import Annotation, Change, KnownImage, Label, NotFound, State
from fewseg.server.project.store import ProjectStore, mask_digest

log = logging.getLogger(__name__)

MAX_NAME_LENGTH: Final = 80
"""Greatest length of a label's name, in characters."""

MAX_LABELS: Final = 200


class Project:
    """An open project; safe to use from several threads. Closing it lets another process open the folder."""

    def __init__(self, folder: str | Path) -> None:
        """Open the folder's project, or start one.

        Raises `InvalidImage` for no folder, `InvalidProject` where its file and the backup are damaged, `OutputError`
        where it cannot be written or another server has it open.
        """
        self.folder = Path(folder).absolute()
        if not self.folder.is_dir():
            raise InvalidImage(f"{folder} is no folder: give one with images")
        self.store = ProjectStore(self.folder)
        self.lock = threading.RLock()
        """Held during changes; hold it to read several attributes consistently."""
        self.notices: list[str] = []
        """Messages about the project's files for the user."""
        self._listeners: list[Callable[[], None]] = []
        self._images: dict[str, ImageEntry] = {}
        self._missing: tuple[KnownImage, ...] = ()
        try:
            self._open()
        except BaseException:
            self.store.close()
            raise

    def _open(self) -> None:
        """Load the state; masks that only a damaged or missing file named are put back, and none is deleted then."""
        loaded = self.store.load()
        self._state, self._damage = loaded.state, [loaded.damage] if loaded.damage else []
        if loaded.damage:
            log.warning("%s: %s", self.store.root, loaded.damage)
            self.store.save(self._state)
        self.rescan()
        lost = lost_masks(self._state, self.store.names())
        if loaded.damage and lost:
            state, lost = restore(
                self._state, lost, loaded.labels, self._images, digest=self.store.digest, remember=self._remember
            )
            self._save(state)
        if lost:
            kept = self.store.set_aside(lost)
            log.warning("%s masks belong to no image or label of %s: kept in %s", len(lost), self.store.file, kept)
        if not loaded.damage:
            self.store.collect(self._state)

    def close(self) -> None:
        """Let another process open the folder."""
        self.store.close()

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` after every change, in the thread that made it."""
        self._listeners.append(changed)

    # ------------------------------------------------------------------------------------------ reading

    @property
    def name(self) -> str:
        return self.folder.name or str(self.folder)

    @property
    def state(self) -> State:
        """The saved state; an immutable value."""
        return self._state

    @property
    def images(self) -> Mapping[str, ImageEntry]:
        """Id to image, in order of name; changes replace the mapping."""
        return self._images

    def image(self, identifier: str) -> ImageEntry:
        """The image; raises `NotFound`."""
        try:
            return self._images[identifier]
        except KeyError:
            raise NotFound(f"no image {identifier[:40]!r}: it may have been moved; load the page again") from None

    def label(self, identifier: int) -> Label:
        """The label; raises `NotFound`."""
        for label in self._state.labels:
            if label.id == identifier:
                return label
        raise NotFound(f"no label {identifier}: it may have been deleted; load the page again")

    def annotation(self, image: str, label: int) -> Annotation | None:
        """The hand-made mask of an image, None where there is none."""
        return self._state.annotations.get((image, label))

    def mask(self, image: str, label: int) -> NDArray[np.bool_]:
        """The hand-made mask (H, W); raises `NotFound`, or `InvalidMask` where its file is missing or damaged."""
        annotation = self.annotation(image, label)
        if annotation is None:
            raise NotFound("this image has no hand-made mask of that label")
        return self.store.read_mask(annotation.file, self.image(image).size)

    # ------------------------------------------------------------------------------------------ labels

    def add_label(self, name: str, colour: str | None = None) -> Label:
        """Add a label; raises `InvalidOption` for an empty or taken name, or an invalid colour."""
        with self.lock:
            state = self._state
            if len(state.labels) >= MAX_LABELS:
                raise InvalidOption(f"the project has {MAX_LABELS} labels, no more fit: delete one first")
            label = Label(state.next_label, self._free_name(name), self._colour(colour))
            change = Change(f"Add the label {label.name}", (*state.labels, label))
            self._save(replace(project_state.do(state, change), next_label=state.next_label + 1))
            return label

    def change_label(self, identifier: int, name: str | None = None, colour: str | None = None) -> Label:
        """Rename or recolour a label; raises as `add_label`, and `NotFound`."""
        with self.lock:
            before = self.label(identifier)
            new = replace(
                before,
                name=before.name if name is None else self._free_name(name, identifier),
                colour=before.colour if colour is None else self._colour(colour),
            )
            if new != before:
                labels = tuple(new if label.id == identifier else label for label in self._state.labels)
                self._save(project_state.do(self._state, Change(f"Change the label {before.name}", labels)))
            return new

    def remove_label(self, identifier: int) -> None:
        """Delete a label and its masks; raises `NotFound`."""
        with self.lock:
            gone = self.label(identifier)
            labels = tuple(label for label in self._state.labels if label.id != identifier)
            masks = {place: None for place in self._state.annotations if place[1] == identifier}
            self._save(project_state.do(self._state, Change(f"Delete the label {gone.name}", labels, masks)))

    def _free_name(self, name: str, own: int | None = None) -> str:
        plain = " ".join(name.split())
        if not plain or len(plain) > MAX_NAME_LENGTH or not plain.isprintable():
            raise InvalidOption(f"label name {name[:100]!r}: give 1 to {MAX_NAME_LENGTH} printable characters")
        taken = [label.name for label in self._state.labels if label.id != own]
        if plain.casefold() in (other.casefold() for other in taken):
            raise InvalidOption(f"there is a label {plain!r} already: choose another name")
        return plain

    def _colour(self, colour: str | None) -> str:
        if colour is not None:
            if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
                raise InvalidOption(f"colour {colour[:40]!r}: write it as #rrggbb")
            return colour.lower()
        used = {label.colour for label in self._state.labels}
        offered = label_colours([str(i) for i in range(len(used) + 1 + MAX_LABELS)]).values()
        plain = ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in offered]
        return next((colour for colour in plain if colour not in used), plain[0])

    # ------------------------------------------------------------------------------------------ masks

    def annotate(self, image: str, label: int, mask: NDArray[np.bool_]) -> Annotation:
        """Keep a hand-made mask (H, W), at the image's size.

        Raises `NotFound`; `InvalidMask` for another size or a mask without foreground; `InvalidImage` where the
        image cannot be read.
        """
        file, named = self.image(image), self.label(label)
        if file.error is not None:
            raise InvalidImage(file.error)
        if mask.shape != (file.height, file.width):
            raise InvalidMask(
                f"the mask is {mask.shape[1]}x{mask.shape[0]}, the image {file.width}x{file.height}: "
                "send it at the image's size"
            )
        if not mask.any():
            raise InvalidMask(
                f"the mask is empty: paint at least one pixel of {named.name}, or remove the mask to let the model "
                "find it"
            )
        digest = mask_digest(mask)
        known = self._remember(file)
        with self.lock:
            self.label(label)  # it may have been deleted meanwhile
            before = self.annotation(image, label)
            if before is not None and before.digest == digest:
                return before
            revision = self._state.revision + 1
            annotation = Annotation(mask_name(image, label, revision), digest, revision)
            self.store.write_mask(annotation.file, mask)
            text = f"{'Paint' if before is None else 'Correct'} {named.name} in {file.shown_name}"
            new = project_state.do(self._state, Change(text, annotations={(image, label): annotation}))
            self._save(replace(new, known={**new.known, image: known}))
            return annotation

    def remove_annotation(self, image: str, label: int) -> None:
        """Delete a hand-made mask; raises `NotFound` where there is none."""
        with self.lock:
            file, named = self.image(image), self.label(label)
            if self.annotation(image, label) is None:
                raise NotFound(f"{file.shown_name} has no hand-made mask of {named.name}")
            text = f"Remove {named.name} from {file.shown_name}"
            self._save(project_state.do(self._state, Change(text, annotations={(image, label): None})))

    def check(self, image: str, value: bool) -> None:
        """Set whether a person has confirmed the image's masks; raises `NotFound`."""
        file = self.image(image)
        known = self._remember(file)
        with self.lock:
            if (image in self._state.checked) == value:
                return
            text = f"{'Confirm' if value else 'Reopen'} {file.shown_name}"
            new = project_state.do(self._state, Change(text, checked={image: value}))
            self._save(replace(new, known={**new.known, image: known}))

    def _remember(self, file: ImageEntry) -> KnownImage:
        known = self._state.known.get(file.id)
        if known is not None and (known.bytes, known.mtime_ns) == (file.bytes, file.mtime_ns):
            return known
        return KnownImage(
            file.id, file.name, file.bytes, file.mtime_ns, file_digest(file.path), file.width, file.height
        )

    # ------------------------------------------------------------------------------------------ history and files

    def undo(self) -> None:
        """Undo the last change; raises `InvalidProject` where there is none."""
        with self.lock:
            self._save(project_state.undo(self._state))

    def redo(self) -> None:
        """Redo the change that was undone last; raises `InvalidProject` where there is none."""
        with self.lock:
            self._save(project_state.redo(self._state))

    def rescan(self) -> bool:
        """Scan the folder; returns whether images were added, removed or changed. Raises `InvalidImage`."""
        result = scan(self.folder, self._state.known, self._images.values())
        with self.lock:
            images = {image.id: image for image in result.images}
            if list(images.values()) == list(self._images.values()) and result.missing == self._missing:
                return False
            self._images, self._missing = images, result.missing
            known = {**self._state.known, **{i: k for i, k in result.known.items() if i in self._state.known}}
            if known != self._state.known:
                self._state = replace(self._state, known=known)
                self.store.save(self._state)
            self.notices = self._damage + self._missing_notice()
        self._notify()
        return True

    def _missing_notice(self) -> list[str]:
        annotated = {image for image, _ in self._state.annotations}
        gone = [k.path.encode("utf-8", "replace").decode() for k in self._missing if k.id in annotated]
        if not gone:
            return []
        names = ", ".join(gone[:3]) + (f" and {len(gone) - 3} more" if len(gone) > 3 else "")
        return [f"painted, but no longer there or changed: {names}; the masks are kept for when they come back"]

    def _save(self, state: State) -> None:
        """Save `state`, then notify the listeners; the lock must be held."""
        kept = state.worked_on
        state = replace(state, known={i: k for i, k in state.known.items() if i in kept})
        self.store.save(state)
        self._state = state
        self._notify()

    def _notify(self) -> None:
        for changed in self._listeners:
            changed()
