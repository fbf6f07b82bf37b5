"""Which mask belongs to which image, where both lie in one folder: for examples and data sets alike.

Masks are PNG, TIFF or BMP:

- `name.jpg` (or any ending that masks do not have): `name.png`, `name.mask.png` or `name_mask.png`;
- `name.png`, `name.tif`, `name.bmp`: `name.mask.png` or `name_mask.png`; of the latter two `name.png` as well.

`name.instances.png` is a mask whose every value but 0 is one object. Endings may be in capitals. Hidden files and files
that are no images are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fewseg.core.errors import FewsegError
from fewseg.images.kinds import MASK_SUFFIXES, is_image, tell_unread

INSTANCES_ENDING: Final = ".instances"
"""What the name of an instance map ends in, before `.png`, `.tif` or `.bmp`."""

MASK_ENDINGS: Final = (".mask", "_mask", INSTANCES_ENDING)
"""What the name of a mask may end in, before `.png`, `.tif` or `.bmp`."""


@dataclass(frozen=True)
class FolderPairs:
    """The images of a folder with the files that may be their masks."""

    images: dict[Path, tuple[Path, ...]]
    """Every image, sorted by name, with its masks: none, one, or several where it is not clear which is meant."""
    orphans: tuple[Path, ...]
    """Masks, by their names, without an image."""


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, sorted; not those of its subfolders."""
    files = sorted(p for p in folder.iterdir() if p.is_file())
    tell_unread(folder, files)
    return [p for p in files if is_image(p)]


def class_folders(root: Path) -> list[Path]:
    """The subfolders of a folder, sorted, one a class or label; hidden ones are left out."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def only_mask(image: Path, masks: Sequence[Path], error: type[FewsegError]) -> Path | None:
    """The image's mask; None where there is none. Raises `error` where there are several."""
    if len(masks) > 1:
        raise error(f"{image} has several masks ({', '.join(path.name for path in masks)}): keep one")
    return masks[0] if masks else None


def _stem(mask: Path) -> str:
    """The name of the image whose mask it is, by the end of its own."""
    return next(mask.stem.removesuffix(ending) for ending in MASK_ENDINGS if mask.stem.endswith(ending))


def pairs_in(folder: Path) -> FolderPairs:
    """Images and masks of a folder; nothing is opened."""
    files = images_in(folder)
    maybe = {p for p in files if p.suffix.lower() in MASK_SUFFIXES}
    png = {p for p in maybe if p.suffix.lower() == ".png"}
    # A file is the mask of an image of the same name that cannot be one; a PNG also of a TIFF or BMP.
    never, others = {p.stem for p in files if p not in maybe}, {p.stem for p in files if p not in png}
    plain = {p for p in maybe if p.stem in never} | {p for p in png if p.stem in others}
    # Otherwise it is an image, or ends like a mask: a PNG in any case, others where there is an image to it.
    stems, endings = {p.stem for p in files}, MASK_ENDINGS
    marked = {p for p in maybe - plain if p.stem.endswith(endings) and (p in png or _stem(p) in stems)}
    found: dict[Path, tuple[Path, ...]] = {}
    for image in (p for p in files if p not in plain | marked):
        names = {image.stem + ending for ending in MASK_ENDINGS}
        found[image] = (
            *sorted(p for p in marked if p.stem in names),
            *sorted(p for p in plain if p.stem == image.stem),
        )
    taken = {mask for masks in found.values() for mask in masks}
    return FolderPairs(found, tuple(sorted(marked - taken)))
