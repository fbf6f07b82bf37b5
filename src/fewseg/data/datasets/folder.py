"""Datasets that are folders of images and masks.

Two layouts, recognised by their files:

- *class folders*: `CLASS/name.jpg` with `CLASS/name.png`, a mask of two values (0 is background); other names of masks
  are in `fewseg.images.pairs`;
- *index masks*: `images/name.jpg`, `masks/name.png` and `classes.txt`; mask value v is the class on line v of
  `classes.txt` (lines may carry the value in front: `7 train`), 0 is background, 255 is ignored. Masks of a single
  class that hold 0 and 255 alone are taken for two-valued ones.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.bounds import bounded
from fewseg.core.errors import InvalidDataset, InvalidMask, unknown
from fewseg.core.prediction import IGNORE
from fewseg.images import decode as decoding
from fewseg.images import read_image, read_image_header, read_mask
from fewseg.images.kinds import MASK_SUFFIXES
from fewseg.images.pairs import class_folders, images_in, only_mask, pairs_in

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Item:
    """One image and its mask file."""

    name: str
    image: Path
    mask: Path
    class_id: int | None
    """The class of the folder; None for index masks."""


@dataclass(frozen=True)
class _Entry:
    """What the index knows of one image."""

    size: tuple[int, int]
    orientation: int
    areas: dict[int, float]
    """Class id to the share of the image it covers."""
    ignored: float = 0.0
    """Share of the pixels that do not count."""


class FolderDataset:
    """A folder in one of the two layouts.

    Args:
        root: the folder.
        min_area: share of the image that a class must cover for the image to count as usable for it.
        name: for tables; the folder's name if not given.

    Raises:
        InvalidDataset: the folder has neither layout, or (once names are asked for) masks have values that
            `classes.txt` does not list.
        InvalidMask: once names are asked for: a mask is unreadable, of another size, or empty (class folders).
    """

    def __init__(self, root: str | os.PathLike[str], *, min_area: float = 0.0, name: str | None = None) -> None:
        self.root = Path(root)
        self.min_area = min_area
        self.name = name or self.root.resolve().name
        if not self.root.is_dir():
            raise InvalidDataset(f"no folder {self.root}: give the root of a dataset")
        self._two_valued = False
        self._indexed = (self.root / "classes.txt").is_file()
        items: list[_Item]
        if self._indexed:
            self.classes, items = _read_classes(self.root / "classes.txt"), _index_items(self.root)
        else:
            self.classes, items = _class_items(self.root)
        self._items = _by_name(items)
        if not self._items:
            raise InvalidDataset(
                f"{self.root} is no dataset: expected CLASS/name.jpg with CLASS/name.png, "
                "or images/, masks/ and classes.txt"
            )

    def names(self, class_id: int) -> tuple[str, ...]:
        """The usable images of a class, sorted; the first call reads every mask once, in threads."""
        return self._names[self._check(class_id)]

    def image(self, name: str) -> Image.Image:
        """The image, upright, RGB."""
        return read_image(self._item(name).image)

    def mask(self, name: str, class_id: int) -> NDArray[np.uint8]:
        """(H, W) of 0, 1, 255; no 1 where the image does not hold the class."""
        item, entry = self._item(name), self._index[name]
        if self._check(class_id) not in entry.areas:
            if not entry.ignored or not entry.areas:
                return np.zeros(entry.size[::-1], np.uint8)
            shown = self.mask(name, next(iter(entry.areas)))
            return np.where(shown == IGNORE, shown, np.uint8(0))
        value = class_id + 1 if self._indexed and not self._two_valued else None
        about = os.fspath(item.image)
        return read_mask(item.mask, value=value, size=entry.size, orientation=entry.orientation, image=about)

    def files(self, name: str) -> tuple[Path, ...]:
        """See `Dataset`."""
        item = self._item(name)
        return item.image, item.mask

    def _check(self, class_id: int) -> int:
        if not 0 <= class_id < len(self.classes):
            raise InvalidDataset(f"no class {class_id} in {self.root}: it has {len(self.classes)}, counted from 0")
        return class_id

    def _item(self, name: str) -> _Item:
        if name not in self._items:
            hint = str(unknown("image", name, self._items)).split("; ", 1)[-1]
            raise InvalidDataset(f"no image {name!r} in {self.root}; {hint}")
        return self._items[name]

    @cached_property
    def _index(self) -> dict[str, _Entry]:
        read: Callable[[_Item], _Entry] = self._read_indexed if self._indexed else _read_single
        with ThreadPoolExecutor() as pool:
            found = dict(zip(self._items, pool.map(read, self._items.values()), strict=True))
        if self._indexed and not any(entry.areas for entry in found.values()):
            found = self._without_classes(found)
        return found

    def _without_classes(self, found: dict[str, _Entry]) -> dict[str, _Entry]:
        """The entries where no index mask shows a class: of a single one, 255 is the class; else it is said."""
        if len(self.classes) > 1 or not any(entry.ignored for entry in found.values()):
            log.warning(
                "%s: no mask shows a class: value v is the class on line v of classes.txt, 255 is ignored", self.root
            )
            return found
        log.warning(
            "%s: masks hold 0 and 255 alone, 255 is taken for %r: save it as 1 where 255 is meant to be ignored",
            self.root,
            self.classes[0],
        )
        self._two_valued = True
        return {
            name: replace(entry, areas={0: entry.ignored} if entry.ignored else {}, ignored=0.0)
            for name, entry in found.items()
        }

    @cached_property
    def _names(self) -> tuple[tuple[str, ...], ...]:
        found: list[list[str]] = [[] for _ in self.classes]
        for name, entry in sorted(self._index.items()):
            for class_id, area in entry.areas.items():
                if area >= self.min_area:
                    found[class_id].append(name)
        log.info("%s: %d images, %d classes", self.name, len(self._index), len(self.classes))
        return tuple(tuple(names) for names in found)

    def _read_indexed(self, item: _Item) -> _Entry:
        size, orientation = read_image_header(item.image)
        with decoding.open_file(item.mask, "mask", InvalidMask) as image:
            if image.mode not in ("L", "P", "1"):
                raise InvalidDataset(f"{item.mask} is a {image.mode} image: save index masks as 8-bit grey")
            decoding.decode(image, os.fspath(item.mask), InvalidMask)
            values = np.asarray(image).astype(np.uint8, copy=False)
        turned = size if orientation >= 5 else size[::-1]  # drawn on the image as stored
        if values.shape not in (size[::-1], turned):
            raise InvalidMask(
                f"{item.mask} is {values.shape[1]}x{values.shape[0]}, its image {size[0]}x{size[1]}: "
                "save the mask at the image's size"
            )
        counts = np.bincount(values.reshape(-1), minlength=256)
        found = [int(v) for v in counts.nonzero()[0] if v not in (0, IGNORE)]
        if found and found[-1] > len(self.classes):
            known = len(self.classes)
            raise InvalidDataset(f"{item.mask} has value {found[-1]}, classes.txt lists {known}: add the others")
        areas = {v - 1: float(counts[v] / values.size) for v in found}
        return _Entry(size, orientation, areas, float(counts[IGNORE] / values.size))


def _by_name(items: Iterable[_Item]) -> dict[str, _Item]:
    found: dict[str, _Item] = {}
    for item in items:
        if item.name in found:
            other = found[item.name].image
            raise InvalidDataset(f"{other} and {item.image.name} share a name and so a mask: rename or remove one")
        found[item.name] = item
    return found


def _read_single(item: _Item) -> _Entry:
    assert item.class_id is not None
    size, orientation = read_image_header(item.image)
    mask = read_mask(item.mask, size=size, orientation=orientation, image=os.fspath(item.image))
    return _Entry(size, orientation, {item.class_id: float(np.count_nonzero(mask == 1) / mask.size)})


def _read_classes(path: Path) -> tuple[str, ...]:
    """Class names in the order of their mask values, 1 first."""
    try:
        lines = [line.strip() for line in bounded(path).read_text("utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidDataset(f"cannot read {path} ({error}): save it as UTF-8 text, one class a line") from error
    parts = [line.split(maxsplit=1) for line in lines]
    if lines and all(len(p) == 2 and p[0].isdigit() for p in parts):
        numbered = [(int(value), name) for value, name in parts if int(value) != 0]
        if [value for value, _ in numbered] != list(range(1, len(numbered) + 1)):
            raise InvalidDataset(f"{path}: the values in front of the class names must run 1, 2, 3, ...")
        lines = [name for _, name in numbered]
    if not lines or len(set(lines)) != len(lines) or len(lines) > 254:
        raise InvalidDataset(f"{path} must list 1 to 254 different class names, one a line")
    return tuple(lines)


def _index_items(root: Path) -> list[_Item]:
    images, masks = root / "images", root / "masks"
    if not images.is_dir() or not masks.is_dir():
        raise InvalidDataset(f"{root} has classes.txt but not both images/ and masks/: add the missing folder")
    known = {path.stem: path for path in images_in(masks) if path.suffix.lower() in MASK_SUFFIXES}
    pairs = {path: known.get(path.stem) for path in images_in(images)}
    return [_Item(image.stem, image, mask, None) for image, mask in _with_masks(images, pairs)]


def _class_items(root: Path) -> tuple[tuple[str, ...], list[_Item]]:
    classes: list[str] = []
    items: list[_Item] = []
    for folder in class_folders(root):
        found = pairs_in(folder).images
        pairs = _with_masks(folder, {path: only_mask(path, masks, InvalidDataset) for path, masks in found.items()})
        if pairs:
            items += [_Item(f"{folder.name}/{p.stem}", p, m, len(classes)) for p, m in pairs]
            classes.append(folder.name)
    return tuple(classes), items


def _with_masks(folder: Path, wanted: Mapping[Path, Path | None]) -> list[tuple[Path, Path]]:
    """The images that have a mask; the others are counted in the log."""
    found = [(image, mask) for image, mask in wanted.items() if mask is not None]
    if found and len(found) < len(wanted):
        log.warning("%s: %d of %d images left out for want of a mask", folder, len(wanted) - len(found), len(wanted))
    return found
