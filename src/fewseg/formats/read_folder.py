"""Reading a folder of labelled examples.

    support/
      cat/
        tom.jpg        an image
        tom.png        its mask
        felix.png      an image that is a PNG itself
        felix.mask.png its mask (felix_mask.png will do too)
        ginger.jpg     an image without a mask
        ginger.weak.json what was drawn on or around it: a box, points or a scribble; see `fewseg.images.prompts`
      dog/
        ...

Every folder is a label. Hidden files and files that are no images are left alone.
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
from fewseg.images.pairs import images_in, pairs_in
from fewseg.images.prompts import ENDING, Prompt, read_prompts, require_foreground
from fewseg.inference.segmenter import Segmenter

Examples: TypeAlias = dict[str, list[tuple[Path, Path]]]
"""Label to images with their masks, or their files of marks (`fewseg.images.prompts`)."""


def read_support(folder: str | os.PathLike[str]) -> Examples:
    """The examples in a support folder, labels and images sorted by name; no image is opened.

    Raises `InvalidSupport` for a folder that is missing or empty, an image without mask, or a mask without image.
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
        loose = " (images lie in it directly: move them into a folder named as the label)" if images_in(root) else ""
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
        for image, mask in pairs:
            try:
                segmenter.teach(label, image, mask_of(segmenter, image, mask))
            except FewsegError as error:
                raise type(error)(f"support of {label!r}: {error}") from error


def is_marks(path: Path) -> bool:
    """Whether a file of an example holds marks, not a mask."""
    return path.name.endswith(ENDING)


def mask_of(segmenter: Segmenter, image: Path, mask: Path) -> ImageLike:
    """What `Segmenter.teach` takes: the mask, or what the marks in its place stand for."""
    return outlined(segmenter, image, read_prompts(mask)) if is_marks(mask) else mask


def outlined(segmenter: Segmenter, image: ImageLike, marks: Sequence[Prompt]) -> NDArray[np.bool_]:
    """`Segmenter.mask_from_prompts` of one example of many: what is wrong with its marks names its image's file."""
    name = os.fspath(image) if isinstance(image, (str, os.PathLike)) else "the image"
    try:
        mask = segmenter.mask_from_prompts(image, marks)
    except (InvalidSupport, InvalidOption) as error:
        raise InvalidSupport(f"marks of {name}: {error}") from error
    require_foreground(mask, name)
    return mask


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    """Images of a label with their masks."""
    found = pairs_in(folder)
    marked = {p for p in folder.iterdir() if is_marks(p) and p.is_file() and not p.name.startswith(".")}
    if not found.images and not found.orphans and not marked:
        raise InvalidSupport(
            f"label folder {folder} is empty: put name.jpg and its mask name.png into it, or remove it"
        )
    pairs = []
    for image, masks in found.images.items():
        beside = image.with_name(image.stem + ENDING)
        pairs.append((image, _only(image, (*masks, beside) if beside in marked else masks)))
        marked.discard(beside)
    owners: dict[Path, Path] = {}
    for image, mask in pairs:
        if mask in owners:
            raise InvalidSupport(f"{mask} is the mask of {owners[mask].name} and of {image.name}: rename one of them")
        owners[mask] = image
    if alone := sorted([*found.orphans, *marked]):
        raise InvalidSupport(f"{alone[0]} is a mask without its image: put the image beside it, or remove it")
    return pairs


def _only(image: Path, masks: tuple[Path, ...]) -> Path:
    if len(masks) == 1:
        return masks[0]
    if masks:
        raise InvalidSupport(f"{image} has several masks or marks ({', '.join(p.name for p in masks)}): keep one")
    if image.suffix.lower() == ".png":
        raise InvalidSupport(
            f"{image} has no mask: save one as {image.stem}.mask.png beside it "
            "(if it is a mask itself, its image is missing)"
        )
    raise InvalidSupport(
        f"{image} has no mask: save one as {image.stem}.png beside it, or marks as {image.stem}{ENDING}"
    )
