"""A folder of images to annotate: every change is on the disk before its request is answered.

Masks are predicted by `fewseg.server.engine.engine`, which listens to the changes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import InvalidImage, InvalidMask
from fewseg.server.project import labels
from fewseg.server.project import state as project_state
from fewseg.server.project.images import ImageEntry, file_digest, scan
from fewseg.server.project.recovery import lost_masks, mask_name, restore
from fewseg.server.project.state import (
    ABSENT,
    CHECKED,
    EXAMPLE,
    Annotation,
    Change,
    KnownImage,
    Label,
    NotFound,
    Place,
    State,
)
from fewseg.server.project.store import ProjectStore, mask_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Imported:
    """A mask (H, W) that was made elsewhere."""

    image: str
    """The image's id."""
    label: str
    """The label's name."""
    mask: NDArray[np.bool_]
    kind: str
    """`EXAMPLE` or `CHECKED`."""


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
        return labels.find(self._state, identifier)

    def annotation(self, image: str, label: int) -> Annotation | None:
        """The hand-made mask of an image, None where there is none."""
        return self._state.annotations.get((image, label))

    def mask(self, image: str, label: int) -> NDArray[np.bool_]:
        """The mask (H, W) that a person made or confirmed, all False where the label is absent.

        Raises `NotFound`, or `InvalidMask` where its file is missing or damaged.
        """
        annotation = self.annotation(image, label)
        if annotation is None:
            raise NotFound("this image has no hand-made mask of that label")
        return self.read(image, annotation)

    def read(self, image: str, annotation: Annotation) -> NDArray[np.bool_]:
        """The mask (H, W) of an annotation of an image, one of the history too; raises as `mask`."""
        size = self.image(image).size
        if annotation.kind == ABSENT:
            return np.zeros((size[1], size[0]), np.bool_)
        return self.store.read_mask(annotation.file, size)

    # ------------------------------------------------------------------------------------------ labels

    def add_label(self, name: str, colour: str | None = None) -> Label:
        """Add a label; raises `InvalidOption` for an empty or taken name, or an invalid colour."""
        with self.lock:
            self._save(labels.added(self._state, name, colour))
            return self._state.labels[-1]

    def change_label(self, identifier: int, name: str | None = None, colour: str | None = None) -> Label:
        """Rename or recolour a label; raises as `add_label`, and `NotFound`."""
        with self.lock:
            return self._save_label(labels.changed(self._state, identifier, name, colour), identifier)

    def set_thresholds(self, identifier: int, presence: float | None, mask: float | None) -> Label:
        """Set from which score the label is shown, and from which probability a pixel is its; None for the model's.

        Settings that follow each other are undone in one step. Raises `NotFound`.
        """
        with self.lock:
            return self._save_label(labels.with_thresholds(self._state, identifier, presence, mask), identifier)

    def remove_label(self, identifier: int) -> None:
        """Delete a label and its masks; raises `NotFound`."""
        with self.lock:
            self._save(labels.removed(self._state, identifier))

    def _save_label(self, state: State, identifier: int) -> Label:
        if state is not self._state:
            self._save(state)
        return self.label(identifier)

    def set_exclusive(self, value: bool) -> None:
        """Set whether a pixel has one label at most."""
        with self.lock:
            if value != self._state.exclusive:
                text = "Let labels exclude each other" if value else "Let labels overlap"
                self._save(project_state.do(self._state, Change(text, exclusive=value)))

    # ------------------------------------------------------------------------------------------ masks

    def annotate(self, image: str, label: int, mask: NDArray[np.bool_], *, text: str | None = None) -> Annotation:
        """Keep a mask (H, W), at the image's size, as an example; an empty one says that the label is absent.

        `text` describes the change where it is not painted. Raises as `decide`.
        """
        file, named = self.image(image), self.label(label)
        if not mask.any():
            self.decide(image, {label: mask}, CHECKED, f"Say that {named.name} is not in {file.shown_name}")
        else:
            what = "Paint" if self.annotation(image, label) is None else "Correct"
            self.decide(image, {label: mask}, EXAMPLE, text or f"{what} {named.name} in {file.shown_name}")
        return self._state.annotations[image, label]

    def decide(self, image: str, masks: Mapping[int, NDArray[np.bool_]], kind: str, text: str) -> None:
        """Keep masks (H, W) of some labels, at the image's size, as `kind`; those that are empty say that it is absent.

        `CHECKED` ones are kept as a check of the whole image. Raises `NotFound`; `InvalidMask` for another size;
        `InvalidImage` where the image cannot be read.
        """
        file = self.image(image)
        if file.error is not None:
            raise InvalidImage(file.error)
        for mask in masks.values():
            if mask.shape != (file.height, file.width):
                raise InvalidMask(
                    f"the mask is {mask.shape[1]}x{mask.shape[0]}, the image {file.width}x{file.height}: "
                    "send it at the image's size"
                )
        kinds = {label: kind if mask.any() else ABSENT for label, mask in masks.items()}
        digests = {label: mask_digest(mask) if kinds[label] != ABSENT else "" for label, mask in masks.items()}
        known = self._remember(file)
        with self.lock:
            revision = self._state.revision + 1
            changes: dict[Place, Annotation | None] = {}
            for label, mask in masks.items():
                self.label(label)  # it may have been deleted meanwhile
                before = self.annotation(image, label)
                if before is not None and (before.digest, before.kind) == (digests[label], kinds[label]):
                    continue
                name = "" if kinds[label] == ABSENT else mask_name(image, label, revision)
                if name:
                    self.store.write_mask(name, mask)
                changes[image, label] = Annotation(name, digests[label], revision, kinds[label], int(mask.sum()))
            if changes:
                new = project_state.do(self._state, Change(text, annotations=changes))
                self._save(replace(new, known={**new.known, image: known}))

    def remove_annotation(self, image: str, label: int) -> None:
        """Delete a hand-made mask; raises `NotFound` where there is none."""
        with self.lock:
            file, named = self.image(image), self.label(label)
            if self.annotation(image, label) is None:
                raise NotFound(f"{file.shown_name} has no hand-made mask of {named.name}")
            text = f"Remove {named.name} from {file.shown_name}"
            self._save(project_state.do(self._state, Change(text, annotations={(image, label): None})))

    def take_in(self, found: Iterable[Imported], masks: Iterable[str], text: str) -> int:
        """Keep masks that were made elsewhere, with labels of their names, as one change; the number kept.

        `masks` are names of files that are masks, no images to label. What a person decided here stays.
        """
        with self.lock:
            state, revision, count = self._state, self._state.revision + 1, 0
            known, changes = dict(state.known), dict[Place, Annotation | None]()
            for each in found:
                state, label = labels.named(state, each.label)
                place = (each.image, label)
                if place in state.annotations or place in changes:
                    continue
                file = self.image(each.image)
                known[file.id] = self._remember(file)
                name = mask_name(*place, revision)
                self.store.write_mask(name, each.mask)
                area = int(each.mask.sum())
                changes[place] = Annotation(name, mask_digest(each.mask), revision, each.kind, area)
                count += 1
            change = Change(text, state.labels, changes)
            new = replace(self._state, known=known, next_label=state.next_label)
            self._save(replace(project_state.do(new, change), ignored=self._state.ignored | set(masks)))
        self.rescan()
        return count

    def check(self, image: str, masks: Mapping[int, NDArray[np.bool_]]) -> None:
        """Confirm the image's masks (H, W) by label, which stay as they are then; raises as `decide`.

        Without any the image is remembered as one that was looked at.
        """
        file = self.image(image)
        if masks:
            return self.decide(image, masks, CHECKED, f"Check {file.shown_name}")
        known = self._remember(file)
        with self.lock:
            if image not in self._state.checked:
                new = project_state.do(self._state, Change(f"Check {file.shown_name}", checked={image: True}))
                self._save(replace(new, known={**new.known, image: known}))
        return None

    def reopen(self, image: str) -> None:
        """Take back that the image was checked, and which labels are absent; examples stay. Raises `NotFound`."""
        file = self.image(image)
        with self.lock:
            gone: dict[Place, Annotation | None] = {
                place: None
                for place, annotation in self._state.annotations.items()
                if place[0] == image and annotation.kind != EXAMPLE
            }
            if gone or image in self._state.checked:
                change = Change(f"Reopen {file.shown_name}", annotations=gone, checked={image: False})
                self._save(project_state.do(self._state, change))

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
        result = scan(self.folder, self._state.known, self._images.values(), self._state.ignored)
        with self.lock:
            # Masks may have been taken in since the scan began.
            images = {image.id: image for image in result.images if image.name not in self._state.ignored}
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
