"""Examples from a folder as PASCAL VOC has it: JPEGImages/ and SegmentationClass/.

Masks are palette images, whose indices are the classes, or RGB images in the classes' colours. 0 (black) is
background and 255 (or the colour 224, 224, 192) ignored. Names and colours come from labelmap.txt (as CVAT writes it),
names from class_names.txt (labelme) or classes.txt; without any of these files they are VOC's own twenty.

Ignored pixels stay ignored (255) in the masks read here. Methods count what is not foreground in a support as
background, the ignored rim around VOC's objects too, as the papers do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidMask, InvalidSupport
from fewseg.core.prediction import IGNORE
from fewseg.data.datasets.pascal5i import VOC_CLASSES, voc_colour
from fewseg.formats.examples import SupportExample, Supports, choose_examples
from fewseg.images import decode as decoding
from fewseg.images.decode import ImageLike
from fewseg.images.pairs import images_in

_RIM: Final = (224, 224, 192)
"""VOC's colour of ignored pixels."""

_NAMES: Final = ("labelmap.txt", "class_names.txt", "classes.txt")


@dataclass(frozen=True)
class _Class:
    name: str
    colour: tuple[int, int, int]


def is_voc(folder: Path) -> bool:
    """Whether the folder has VOC's subfolders."""
    return (folder / "JPEGImages").is_dir() and (folder / "SegmentationClass").is_dir()


def read_voc(folder: Path, labels: tuple[str, ...] = (), shots: int = 0) -> Supports:
    """The examples in a VOC folder: every class in every mask; raises `InvalidSupport`."""
    images = {p.stem: p for p in images_in(folder / "JPEGImages")}
    masks = [p for p in images_in(folder / "SegmentationClass") if p.suffix.lower() == ".png"]
    if not masks:
        raise InvalidSupport(f"{folder / 'SegmentationClass'} has no PNG masks: put one there for every labelled image")
    for mask in masks:
        if mask.stem not in images:
            raise InvalidSupport(f"{mask} has no image {mask.stem}.jpg in {folder / 'JPEGImages'}: put it there")
    classes = _classes(folder)
    found = _examples([(images[mask.stem], mask) for mask in masks], classes)
    every = [c.name for number, c in sorted(classes.items()) if number]
    examples = choose_examples(found, every, labels, shots)
    if not examples:
        raise InvalidSupport(f"{folder / 'SegmentationClass'} has masks without any class: they hold 0 and 255 only")
    return Supports("VOC", examples)


def _examples(pairs: list[tuple[Path, Path]], classes: dict[int, _Class]) -> Iterator[SupportExample]:
    for image, mask in pairs:
        indices = _indices(mask, classes)
        counts = np.bincount(indices.reshape(-1), minlength=256)
        for number in map(int, counts.nonzero()[0]):
            if number in (0, IGNORE):
                continue
            if number not in classes:
                raise InvalidSupport(
                    f"{mask} has class {number}, {len(classes) - 1} are named: list the names in {' or '.join(_NAMES)}"
                )
            share = float(counts[number] / indices.size)
            load = partial(_load, mask, classes)
            yield SupportExample(classes[number].name, image, load, number, mask_file=mask, share=share)


def _load(mask: Path, classes: dict[int, _Class]) -> ImageLike:
    return _indices(mask, classes)


def _indices(path: Path, classes: dict[int, _Class]) -> NDArray[np.uint8]:
    """(H, W) class numbers, 255 ignored."""
    with decoding.open_file(path, "mask", InvalidMask) as image:
        image = decoding.decode(image, str(path), InvalidMask)
        if image.mode in ("L", "1") or (image.mode == "P" and not _by_colours(image, classes)):
            return np.asarray(image).astype(np.uint8)
        colours = np.asarray(image.convert("RGB")).astype(np.uint32)
    packed = colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
    result = np.full(packed.shape, IGNORE, np.uint8)
    known = packed == _pack(_RIM)
    for number, entry in classes.items():
        here = packed == _pack(entry.colour)
        result[here] = number
        known |= here
    if not known.all():
        stray = int(packed[~known][0])
        raise InvalidSupport(
            f"{path} has the colour ({stray >> 16}, {stray >> 8 & 255}, {stray & 255}), which is no class: save it as "
            "a palette PNG, or list the colours in labelmap.txt"
        )
    return result


def _by_colours(image: Image.Image, classes: dict[int, _Class]) -> bool:
    """Whether all colours of a palette image are those of classes: tools that shrink PNGs reorder palettes."""
    palette = image.getpalette("RGB") or []
    used = [int(i) for i in np.unique(np.asarray(image))]
    colours = [tuple(palette[3 * i : 3 * i + 3]) for i in used]
    return len(set(colours)) == len(used) and set(colours) <= {_RIM, *(entry.colour for entry in classes.values())}


def _pack(colour: tuple[int, int, int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _classes(folder: Path) -> dict[int, _Class]:
    """Class number to name and colour, 0 being the background."""
    path = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    if path is None:
        return {i: _Class(name, voc_colour(i)) for i, name in enumerate(["background", *VOC_CLASSES])}
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSupport(f"cannot read {path} ({error}): save it as UTF-8 text") from error
    rows = [line.split(":") for line in lines if line and not line.startswith("#")]
    if rows and rows[0][0].strip("_").lower() not in ("background", "bg"):
        rows.insert(0, ["background"])
    if len(rows) < 2 or len(rows) > 255 or len({row[0] for row in rows}) != len(rows):
        raise InvalidSupport(f"{path} must list 1 to 254 different class names, one a line")
    return {i: _Class(row[0].strip(), _colour(row, i, path)) for i, row in enumerate(rows)}


def _colour(row: list[str], number: int, path: Path) -> tuple[int, int, int]:
    if len(row) < 2 or not row[1].strip():
        return voc_colour(number)
    try:
        red, green, blue = (int(value) for value in row[1].split(","))
    except ValueError:
        raise InvalidSupport(f"{path} has the colour {row[1]!r}: expected red,green,blue") from None
    return red, green, blue
