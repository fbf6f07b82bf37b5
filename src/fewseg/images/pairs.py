"""Which mask belongs to which picture, where both lie in one folder: for examples and data sets alike.

- `name.jpg` (or any ending but .png): `name.png`, `name.mask.png` or `name_mask.png`;
- `name.png`: `name.mask.png` or `name_mask.png`.

Endings may be in capitals. Hidden files and files that are no pictures are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from fewseg.images.decode import SUFFIXES

MASK_ENDINGS: Final = (".mask", "_mask")
"""What the name of a mask may end in, before `.png`."""


@dataclass(frozen=True)
class FolderPairs:
    """The pictures of a folder with the files that may be their masks."""

    pictures: dict[Path, tuple[Path, ...]]
    """Every picture, sorted by name, with its masks: none, one, or several where it is not clear which is meant."""
    orphans: tuple[Path, ...]
    """Masks, by their names, without a picture."""


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder, sorted; not those of its subfolders."""
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def pairs_in(folder: Path) -> FolderPairs:
    """Pictures and masks of a folder; nothing is opened."""
    files = pictures_in(folder)
    png = {p for p in files if p.suffix.lower() == ".png"}
    others = [p for p in files if p not in png]
    stems = {p.stem for p in others}
    # A PNG is the mask of the picture of the same name that is no PNG; otherwise it is a picture, or ends like a mask.
    plain = {p for p in png if p.stem in stems}
    marked = {p for p in png - plain if p.stem.endswith(MASK_ENDINGS)}
    found: dict[Path, tuple[Path, ...]] = {}
    for picture in sorted([*others, *(png - plain - marked)]):
        names = {picture.stem + ending for ending in MASK_ENDINGS}
        found[picture] = (
            *sorted(p for p in marked if p.stem in names),
            *sorted(p for p in plain if p.stem == picture.stem),
        )
    taken = {mask for masks in found.values() for mask in masks}
    return FolderPairs(found, tuple(sorted(marked - taken)))
