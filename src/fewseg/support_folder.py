"""Reading a folder of labelled examples.

    support/
      cat/
        tom.jpg        a picture
        tom.png        its mask
        felix.png      a picture that is a PNG itself
        felix.mask.png its mask (felix_mask.png will do too)
      dog/
        ...

Every folder is a label. Hidden files and files that are no pictures are left alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, TypeAlias

from fewseg.errors import FewsegError, InvalidOption, InvalidSupport
from fewseg.images import SUFFIXES
from fewseg.segmenter import Segmenter

Examples: TypeAlias = dict[str, list[tuple[Path, Path]]]
"""Label to pictures with their masks."""

_MASK_ENDINGS: Final = (".mask", "_mask")


def read_support(folder: str | os.PathLike[str]) -> Examples:
    """The examples in a support folder, labels and pictures sorted by name; no picture is opened.

    Raises `InvalidSupport` for a folder that is missing or empty, a picture without mask, or a mask without picture.
    """
    root = Path(folder)
    if not root.is_dir():
        state = "is a file, not a folder" if root.exists() else "does not exist"
        raise InvalidSupport(f"support folder {root} {state}: give one with LABEL/name.jpg and LABEL/name.png")
    try:
        labels = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        examples = {label.name: _pairs(label) for label in labels}
    except PermissionError as error:
        raise InvalidSupport(f"no permission to read {error.filename}: change its permissions") from error
    if not examples:
        loose = " (pictures lie in it directly: move them into a folder named as the label)" if _pictures(root) else ""
        raise InvalidSupport(
            f"support folder {root} has no label folders{loose}: expected LABEL/name.jpg and LABEL/name.png"
        )
    return examples


def require_apart(support: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Raise `InvalidOption` for an output folder in the support folder: the next run would take results for labels."""
    inner, outer = Path(out).resolve(), Path(support).resolve()
    if inner == outer or outer in inner.parents:
        raise InvalidOption(f"output folder {out} lies in the support folder {support}: choose another")


def teach_all(segmenter: Segmenter, examples: Examples) -> None:
    """Teach every example of every label; errors say which label and file."""
    for label, pairs in examples.items():
        for picture, mask in pairs:
            try:
                segmenter.teach(label, picture, mask)
            except FewsegError as error:
                raise type(error)(f"support of {label!r}: {error}") from error


def _pictures(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file() and not p.name.startswith(".")
    )


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Pictures of a label with their masks."""
    files = _pictures(folder)
    if not files:
        raise InvalidSupport(
            f"label folder {folder} is empty: put name.jpg and its mask name.png into it, or remove it"
        )
    png = {p for p in files if p.suffix.lower() == ".png"}
    pictures = [p for p in files if p not in png]
    stems = {p.stem for p in pictures}
    # A PNG is the mask of the picture of the same name that is no PNG; otherwise it is a picture, or ends like a mask.
    plain = {p for p in png if p.stem in stems}
    marked = {p for p in png - plain if p.stem.endswith(_MASK_ENDINGS)}
    pictures += png - plain - marked
    pairs = {picture: _mask_of(picture, plain, marked) for picture in sorted(pictures)}
    orphans = marked - set(pairs.values())
    if orphans:
        raise InvalidSupport(f"{min(orphans)} is a mask without its picture: put the picture beside it, or remove it")
    return list(pairs.items())


def _mask_of(picture: Path, plain: set[Path], marked: set[Path]) -> Path:
    stem = picture.stem
    found = sorted(p for p in marked if p.stem in {stem + ending for ending in _MASK_ENDINGS})
    found += sorted(p for p in plain if p.stem == stem)
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidSupport(f"{picture} has several masks ({', '.join(p.name for p in found)}): keep one")
    if picture.suffix.lower() == ".png":
        raise InvalidSupport(
            f"{picture} has no mask: save one as {stem}.mask.png beside it "
            "(if it is a mask itself, its picture is missing)"
        )
    raise InvalidSupport(f"{picture} has no mask: save one as {stem}.png beside it")
