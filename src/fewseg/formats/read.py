"""Labelled examples read from a file or folder in any known format."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from fewseg.core.errors import InvalidOption, InvalidSupport
from fewseg.formats.coco import is_coco, read_coco
from fewseg.formats.examples import SupportExample, Supports, choose_examples
from fewseg.formats.labelme import is_labelme, read_labelme
from fewseg.formats.mask_folders import is_prompts, read_mask_folders
from fewseg.formats.voc import is_voc, read_voc
from fewseg.images.prompts import read_prompts

_KNOWN: Final = (
    "mask folders (LABEL/name.jpg and LABEL/name.png), COCO JSON, labelme JSON, VOC (JPEGImages/, SegmentationClass/)"
)


def read_supports(
    path: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    labels: Sequence[str] = (),
    shots: int = 0,
) -> Supports:
    """The labelled examples at a path, whatever the format; images and masks are decoded when they are taught.

    - a folder of label folders with images and masks: see `fewseg.formats.mask_folders`;
    - a COCO JSON file, or a folder with one (also in `annotations/`): see `fewseg.formats.coco`;
    - a labelme JSON file, or a folder with some: see `fewseg.formats.labelme`;
    - a VOC folder: see `fewseg.formats.voc`.

    Args:
        path: file or folder.
        images: where the images of JSON files are; found beside the file if not given.
        labels: only these, in this order; all if empty.
        shots: at most so many examples a label, 0 for all: the first whose label covers at least 2 % of the image,
            then those where it covers most.

    Raises:
        InvalidSupport: nothing of the kind is there, or what is there is damaged or incomplete.
    """
    root, folder = Path(path), None if images is None else Path(images)
    if shots < 0:
        raise InvalidOption(f"{shots} shots: give 1 or more, or 0 for all")
    if folder is not None and not folder.is_dir():
        raise InvalidSupport(f"folder of images {folder} does not exist: check --images")
    wanted = tuple(labels)
    try:
        if root.is_file():
            return _from_files([root], folder, wanted, shots)
        if root.is_dir():
            return _from_folder(root, folder, wanted, shots)
    except OSError as error:
        raise InvalidSupport(f"cannot read {error.filename or root}: {error.strerror or error}") from error
    raise InvalidSupport(f"support folder or file {root} does not exist: give {_KNOWN}")


def _from_folder(root: Path, images: Path | None, labels: tuple[str, ...], shots: int) -> Supports:
    if is_voc(root):
        return read_voc(root, labels, shots)
    for files in (_json_files(root), _json_files(root / "annotations")):
        known = [file for file in files if _looks_known(file)]
        if known:
            return _from_files(known, images, labels, shots)
    below = [file for inner in sorted(root.iterdir()) if inner.is_dir() for file in _json_files(inner)]
    if below and not _has_masks(root):
        known = [file for file in below if _looks_known(file)]
        if known:
            return _from_files(known, images, labels, shots)
    return _from_mask_folders(root, labels, shots)


def _from_mask_folders(root: Path, labels: tuple[str, ...], shots: int) -> Supports:
    try:
        pairs = read_mask_folders(root)
    except InvalidSupport as error:
        raise InvalidSupport(f"{error} (looked for: {_KNOWN})") from error
    found = [_in_folder(label, image, mask) for label, group in pairs.items() for image, mask in group]
    return Supports("mask folders", choose_examples(found, pairs, labels, shots))


def _in_folder(label: str, image: Path, mask: Path) -> SupportExample:
    if is_prompts(mask):
        return SupportExample(label, image, None, load_prompts=lambda: read_prompts(mask))
    return SupportExample(label, image, lambda: mask, mask_file=mask)


def _from_files(files: Sequence[Path], images: Path | None, labels: tuple[str, ...], shots: int) -> Supports:
    parsed = [(file, _parsed(file)) for file in files]
    data_sets = [pair for pair in parsed if is_coco(pair[1])]
    if len(data_sets) > 1:
        names = ", ".join(str(file) for file, _ in data_sets[:4])
        raise InvalidSupport(f"{len(data_sets)} COCO files ({names}): give the path of one")
    if data_sets:
        return read_coco(*data_sets[0], images, labels, shots)
    drawn = [pair for pair in parsed if is_labelme(pair[1])]
    if drawn:
        return read_labelme(drawn, images, labels, shots)
    raise InvalidSupport(
        f"{files[0]} is neither COCO JSON (images, annotations, categories) nor labelme JSON (shapes, imagePath); "
        f"give {_KNOWN}"
    )


def _json_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() == ".json" and not p.name.startswith("."))


def _looks_known(file: Path) -> bool:
    """Whether its beginning has a key of one of the formats; other JSON files may lie about."""
    with file.open("rb") as stream:
        start = stream.read(1 << 20)
    return any(f'"{key}"'.encode() in start for key in ("shapes", "images", "annotations", "categories", "imageData"))


def _has_masks(root: Path) -> bool:
    return any(p.suffix.lower() == ".png" for inner in root.iterdir() if inner.is_dir() for p in inner.iterdir())


def _parsed(file: Path) -> Any:
    if file.suffix.lower() != ".json":
        raise InvalidSupport(f"support {file} is a file, not a folder, and no JSON either: give {_KNOWN}")
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidSupport(f"{file} is damaged or no JSON ({error}): export it again") from error
    if isinstance(content, dict) and content.get("imageData"):
        content["imageData"] = True  # labelme's: read again where it is wanted, or all images would be in memory
    return content
