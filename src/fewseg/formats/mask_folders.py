"""Examples from a folder with one folder of images and masks a label.

    support/
      cat/
        tom.jpg        an image
        tom.png        its mask
        felix.png      an image that is a PNG itself
        felix.mask.png its mask (felix_mask.png will do too)
        kittens.jpg    an image of several
        kittens.instances.png its instance map: every value but 0 is one cat
        ginger.jpg     an image without a mask
        ginger.weak.json prompts in its place: a box, points or a scribble; see `fewseg.images.prompts`
      dog/
        ...

Every folder is a label. Hidden files and files that are no images are left alone.
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TypeAlias

from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.formats.left_out import LeftOut
from fewseg.images.kinds import MASK_SUFFIXES, unread
from fewseg.images.pairs import class_folders, images_in, only_mask, pairs_in
from fewseg.images.prompts import ENDING

FolderExamples: TypeAlias = dict[str, list[tuple[Path, Path]]]
"""Label to images, each with its mask or its file of prompts (`fewseg.images.prompts`)."""


def read_mask_folders(folder: str | os.PathLike[str], left: LeftOut | None = None) -> FolderExamples:
    """The examples in a support folder, labels and images sorted by name; no image is opened.

    An image without mask, a mask without image and a label folder without either are left out with a line, where `left`
    is given. Raises `InvalidSupport` for a folder that is missing or has no example, and for those entries without it.
    """
    root = Path(folder)
    left = left or LeftOut(strict=True)
    if not root.is_dir():
        state = "is a file, not a folder" if root.exists() else "does not exist"
        raise InvalidSupport(f"support folder {root} {state}: give one with LABEL/name.jpg and LABEL/name.png")
    try:
        examples = {label.name: _pairs(label, left) for label in class_folders(root)}
    except PermissionError as error:
        raise InvalidSupport(f"no permission to read {error.filename}: change its permissions") from error
    if not any(examples.values()):
        loose = " (images lie in it directly: move them into a folder named as the label)" if images_in(root) else ""
        raise left.nothing(
            f"support folder {root} has no label folders{loose}: expected LABEL/name.jpg and LABEL/name.png"
        )
    return examples


def require_apart(support: str | os.PathLike[str], out: str | os.PathLike[str]) -> None:
    """Raise `InvalidOption` for an output folder in the support folder: the next run would take results for labels."""
    inner, outer = Path(out).resolve(), Path(support).resolve()
    if inner == outer or outer in inner.parents:
        raise InvalidOption(f"output folder {out} lies in the support folder {support}: choose another")


def is_prompts(path: Path) -> bool:
    """Whether a file beside an image holds prompts, not a mask."""
    return path.name.endswith(ENDING)


def _pairs(folder: Path, left: LeftOut) -> list[tuple[Path, Path]]:
    """Images of a label, each with its mask or its file of prompts; every file belongs to exactly one image."""
    found = pairs_in(folder)
    prompts = {p for p in folder.iterdir() if is_prompts(p) and p.is_file() and not p.name.startswith(".")}
    if not found.images and not found.orphans and not prompts:
        left.bad(f"label folder {folder} is empty: put name.jpg and its mask name.png into it, or remove it")
    owners: dict[Path, Path] = {}
    used: set[Path] = set()
    for image, masks in found.images.items():
        beside = image.with_name(image.stem + ENDING)
        given = (*masks, beside) if beside in prompts else masks
        used.update(given)
        try:
            owners[_mask_of(image, given, owners)] = image
        except InvalidSupport as error:
            left.bad(error)
    for alone in sorted([*found.orphans, *(prompts - used)]):
        left.bad(f"{alone} is a mask without its image: put the image beside it, or remove it")
    return [(image, mask) for mask, image in owners.items()]


def _mask_of(image: Path, given: tuple[Path, ...], owners: dict[Path, Path]) -> Path:
    mask = only_mask(image, given, InvalidSupport)
    if mask is None:
        raise _without_mask(image)
    if mask in owners:
        raise InvalidSupport(f"{mask} is the mask of {owners[mask].name} and of {image.name}: rename one of them")
    return mask


def _without_mask(image: Path) -> InvalidSupport:
    if (kinds := unread(image.parent.glob(glob.escape(image.stem) + ".*"))) is not None:
        return InvalidSupport(f"{image} has no mask or no image that is read: beside it, {kinds}")
    if image.suffix.lower() in MASK_SUFFIXES:
        hint = f"{image.stem}.mask.png beside it (if it is a mask itself, its image is missing)"
    else:
        hint = f"{image.stem}.png beside it, or prompts as {image.stem}{ENDING}"
    return InvalidSupport(f"{image} has no mask: save one as {hint}")
