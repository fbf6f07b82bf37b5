"""Reading a folder of labelled examples.

    support/
      cat/
        tom.jpg        a picture
        tom.png        its mask
        felix.png      a picture that is a PNG itself
        felix.mask.png its mask (felix_mask.png will do too)
        ginger.jpg     a picture without a mask
        ginger.weak.json what was drawn on or around it: a box, points or a scribble; see `fewseg.images.prompts`
      dog/
        ...

Every folder is a label. Hidden files and files that are no pictures are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from fewseg.core.errors import FewsegError, InvalidOption, InvalidSupport
from fewseg.images.decode import ImageLike
from fewseg.images.pairs import pairs_in, pictures_in
from fewseg.images.prompts import ENDING, Mark, read_marks, require_outlined
from fewseg.inference.segmenter import Segmenter

Examples: TypeAlias = dict[str, list[tuple[Path, Path]]]
"""Label to pictures with their masks, or their files of marks (`fewseg.images.prompts`)."""


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
        loose = (
            " (pictures lie in it directly: move them into a folder named as the label)" if pictures_in(root) else ""
        )
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
                segmenter.teach(label, picture, mask_of(segmenter, picture, mask))
            except FewsegError as error:
                raise type(error)(f"support of {label!r}: {error}") from error


def is_marks(path: Path) -> bool:
    """Whether a file of an example holds marks, not a mask."""
    return path.name.endswith(ENDING)


def mask_of(segmenter: Segmenter, picture: Path, mask: Path) -> ImageLike:
    """What `Segmenter.teach` takes: the mask, or what the marks in its place stand for."""
    return outlined(segmenter, picture, read_marks(mask)) if is_marks(mask) else mask


def outlined(segmenter: Segmenter, picture: ImageLike, marks: Sequence[Mark]) -> NDArray[np.bool_]:
    """`Segmenter.outline_marks` of one example of many: what is wrong with its marks names its picture's file."""
    name = os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else "the picture"
    try:
        mask = segmenter.outline_marks(picture, marks)
    except (InvalidSupport, InvalidOption) as error:
        raise InvalidSupport(f"marks of {name}: {error}") from error
    require_outlined(mask, name)
    return mask


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Pictures of a label with their masks."""
    found = pairs_in(folder)
    marked = {p for p in folder.iterdir() if is_marks(p) and p.is_file() and not p.name.startswith(".")}
    if not found.pictures and not found.orphans and not marked:
        raise InvalidSupport(
            f"label folder {folder} is empty: put name.jpg and its mask name.png into it, or remove it"
        )
    pairs = []
    for picture, masks in found.pictures.items():
        beside = picture.with_name(picture.stem + ENDING)
        pairs.append((picture, _only(picture, (*masks, beside) if beside in marked else masks)))
        marked.discard(beside)
    owners: dict[Path, Path] = {}
    for picture, mask in pairs:
        if mask in owners:
            raise InvalidSupport(f"{mask} is the mask of {owners[mask].name} and of {picture.name}: rename one of them")
        owners[mask] = picture
    if alone := sorted([*found.orphans, *marked]):
        raise InvalidSupport(f"{alone[0]} is a mask without its picture: put the picture beside it, or remove it")
    return pairs


def _only(picture: Path, masks: tuple[Path, ...]) -> Path:
    if len(masks) == 1:
        return masks[0]
    if masks:
        raise InvalidSupport(f"{picture} has several masks or marks ({', '.join(p.name for p in masks)}): keep one")
    if picture.suffix.lower() == ".png":
        raise InvalidSupport(
            f"{picture} has no mask: save one as {picture.stem}.mask.png beside it "
            "(if it is a mask itself, its picture is missing)"
        )
    raise InvalidSupport(
        f"{picture} has no mask: save one as {picture.stem}.png beside it, or marks as {picture.stem}{ENDING}"
    )
