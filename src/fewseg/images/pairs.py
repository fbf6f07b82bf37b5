"""Which mask belongs to which image, where both lie in one folder: for examples and data sets alike.

- `name.jpg` (or any ending but .png): `name.png`, `name.mask.png` or `name_mask.png`;
- `name.png`: `name.mask.png` or `name_mask.png`.

Endings may be in capitals. Hidden files and files that are no images are left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fewseg.core.errors import FewsegError
from fewseg.images.kinds import SUFFIXES

MASK_ENDINGS: Final = (".mask", "_mask")
"""What the name of a mask may end in, before `.png`."""


@dataclass(frozen=True)
class FolderPairs:
    """The images of a folder with the files that may be their masks."""

    images: dict[Path, tuple[Path, ...]]
    """Every image, sorted by name, with its masks: none, one, or several where it is not clear which is meant."""
    orphans: tuple[Path, ...]
    """Masks, by their names, without an image."""


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, sorted; not those of its subfolders."""
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def class_folders(root: Path) -> list[Path]:
    """The subfolders of a folder, sorted, one a class or label; hidden ones are left out."""
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def only_mask(image: Path, masks: Sequence[Path], error: type[FewsegError]) -> Path | None:
    """The image's mask; None where there is none. Raises `error` where there are several."""
    if len(masks) > 1:
        raise error(f"{image} has several masks ({', '.join(path.name for path in masks)}): keep one")
    return masks[0] if masks else None


def pairs_in(folder: Path) -> FolderPairs:
    """Images and masks of a folder; nothing is opened."""
    files = images_in(folder)
    png = {p for p in files if p.suffix.lower() == ".png"}
    others = [p for p in files if p not in png]
    stems = {p.stem for p in others}
    # A PNG is the mask of the image of the same name that is no PNG; otherwise it is an image, or ends like a mask.
    plain = {p for p in png if p.stem in stems}
    marked = {p for p in png - plain if p.stem.endswith(MASK_ENDINGS)}
    found: dict[Path, tuple[Path, ...]] = {}
    for image in sorted([*others, *(png - plain - marked)]):
        names = {image.stem + ending for ending in MASK_ENDINGS}
        found[image] = (
            *sorted(p for p in marked if p.stem in names),
            *sorted(p for p in plain if p.stem == image.stem),
        )
    taken = {mask for masks in found.values() for mask in masks}
    return FolderPairs(found, tuple(sorted(marked - taken)))
