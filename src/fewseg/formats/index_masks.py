"""Examples of index masks: images whose values, or colours, are classes; in the layouts of several tools.

`ClassTable` says which value or colour is which class; 0 is background, 255 is ignored unless it is a class.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import FewsegError, InvalidMask, InvalidSupport
from fewseg.core.prediction import IGNORE
from fewseg.formats.examples import SupportExample
from fewseg.formats.reading import Request, images_below
from fewseg.images import decode as decoding
from fewseg.images.decode import ImageLike
from fewseg.images.kinds import MASK_SUFFIXES
from fewseg.images.pairs import MASK_ENDINGS

Colour: TypeAlias = "tuple[int, int, int]"

_RIM: Final = (224, 224, 192)
"""VOC's colour of ignored pixels."""


@dataclass(frozen=True)
class ClassTable:
    """Classes by their values and colours in masks."""

    names: Mapping[int, str]
    """Value to name, without the background."""
    colours: Mapping[Colour, int] = field(default_factory=dict)
    """Colour to value, with the background's."""
    only_colours: bool = False
    """Whether values say nothing, as where the list of classes does not begin with the background."""
    remedy: str = "list its name"
    """What to do about a class without a name."""


def read_index_masks(
    pairs: Iterable[tuple[Path, Path]], table: ClassTable, request: Request
) -> Iterator[SupportExample]:
    """An example of every wanted class in every image and its mask; masks that cannot be used are left out."""
    for image, mask in pairs:
        try:
            values = class_values(mask, table)
            numbers, counts = np.unique(values, return_counts=True)
            for number in numbers.tolist():
                if number not in (0, IGNORE, *table.names):
                    raise InvalidSupport(f"{mask} has class {number}, {len(table.names)} are named: {table.remedy}")
        except FewsegError as error:
            request.left.bad(error)
            continue
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            label = table.names.get(number)
            if label is not None and (not request.labels or label in request.labels):
                load = partial(_load, mask, table)
                yield SupportExample(label, image, load, number, mask_file=mask, share=count / values.size)


def _load(mask: Path, table: ClassTable) -> ImageLike:
    return class_values(mask, table)


def class_values(path: Path, table: ClassTable) -> NDArray[Any]:
    """(H, W) class numbers; raises `InvalidMask`, `InvalidSupport` for a colour that is no class."""
    with decoding.open_file(path, "mask", InvalidMask) as image:
        decoding.require_mask_format(image, str(path), InvalidMask)
        image = decoding.decode(image, str(path), InvalidMask)
        by_value = image.mode in ("L", "1") or image.mode.startswith("I")
        if not table.only_colours and (by_value or (image.mode == "P" and not _by_colours(image, table))):
            values = np.asarray(image)
            return values.astype(np.uint8) if values.dtype == np.bool_ else values
        colours = np.asarray(image.convert("RGB")).astype(np.uint32)
    packed = colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]
    result = np.full(packed.shape, IGNORE, np.uint8)
    known = packed == _pack(_RIM)
    for colour, number in table.colours.items():
        here = packed == _pack(colour)
        result[here] = number
        known |= here
    if not known.all():
        stray = int(packed[~known][0])
        raise InvalidSupport(
            f"{path} has the colour ({stray >> 16}, {stray >> 8 & 255}, {stray & 255}), which is no class: save it as "
            "a palette PNG, or list the colours in labelmap.txt"
        )
    return result


def _by_colours(image: Image.Image, table: ClassTable) -> bool:
    """Whether all colours of a palette image are those of classes: tools that shrink PNGs reorder palettes."""
    palette = image.getpalette("RGB") or []
    used = [int(i) for i in np.unique(np.asarray(image))]
    colours = [tuple(palette[3 * i : 3 * i + 3]) for i in used]
    return len(set(colours)) == len(used) and set(colours) <= {_RIM, *table.colours}


def _pack(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def pairs_by_name(
    images: Path, masks: Path, request: Request, names: frozenset[str] | None = None
) -> list[tuple[Path, Path]]:
    """Each mask below `masks` with the image of the same path below `images`, or else of the same name.

    `names`, where given, are the paths that are wanted. Masks without an image are left out with a line.
    """
    found = images_below(images)
    by_name: dict[str, list[Path]] = {}
    for key, path in found.items():
        by_name.setdefault(key.rpartition("/")[2], []).append(path)
    pairs = []
    for key, mask in images_below(masks).items():
        if mask.suffix.lower() not in MASK_SUFFIXES:
            request.left.bad(f"{mask} is no PNG, TIFF or BMP, which keep a mask's values: save it as PNG")
            continue
        stems = [key, *(key.removesuffix(ending) for ending in MASK_ENDINGS if key.endswith(ending))]
        if names is not None and not names.intersection(stems):
            continue
        image = next((found[stem] for stem in stems if stem in found), None)
        if image is None:
            same = [path for stem in stems for path in by_name.get(stem.rpartition("/")[2], [])]
            image = same[0] if len(same) == 1 else None
        if image is None:
            request.left.bad(f"{mask} has no image {mask.stem}.jpg in {images}: put it there, or remove the mask")
        else:
            pairs.append((image, mask))
    return pairs
