"""What annotation tools draw in an image, whatever the format: shapes that are filled, and boxes.

A reader makes an `AnnotatedImage` of every image that its file lists; `examples_of` makes examples of them. Sizes that
a file states are compared with the image before anything is drawn, so no file decides how much memory is used. A shape
that cannot be drawn is left out, and the rest of its image is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import FewsegError, InvalidSupport
from fewseg.core.prediction import IGNORE
from fewseg.formats.examples import SupportExample, header_of
from fewseg.formats.left_out import LeftOut
from fewseg.images.decode import ImageLike
from fewseg.images.orientation import upright_size, upright_values
from fewseg.images.prompts import Prompt

Size: TypeAlias = "tuple[int, int]"
"""(width, height) in pixels."""
Mask: TypeAlias = "NDArray[np.bool_]"
Box: TypeAlias = "tuple[float, float, float, float]"
"""Left, top, right, bottom in pixels."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A region of a label."""

    label: str
    where: str
    """Names the entry in messages: `annotation 3 of a.json`."""
    fill: Callable[[Size], Mask] | None = None
    """The mask (H, W) on an image of the size given; raises `InvalidSupport`, `InvalidMask`."""
    box: Callable[[Size], Box] | None = None
    """In place of `fill`: a box prompt."""
    area: float | None = None
    """Pixels that it covers, where the file says it."""
    reach: Callable[[], Size] | None = None
    """How far its corners reach to the right and down, where that tells on which image it was drawn."""


@dataclass(frozen=True)
class AnnotatedImage:
    """An image and what is drawn in it."""

    where: str
    """Names the image in messages: `image a.jpg of set.json`."""
    find: Callable[[], Path | Image.Image]
    """Finds the image; raises `InvalidSupport` where it is missing."""
    shapes: Sequence[Shape] = ()
    size: Size | None = None
    """As the file states it; None where it states none."""
    ignored: Sequence[Shape] = field(default=())
    """Regions that count as neither label nor background."""
    name: str = ""
    """As the file calls it."""
    upright: bool = False
    """Whether the tool is known to draw on the upright image, whatever its EXIF orientation."""

    def by_label(self) -> dict[str, list[Shape]]:
        """The shapes of each label."""
        groups: dict[str, list[Shape]] = {}
        for shape in self.shapes:
            groups.setdefault(shape.label, []).append(shape)
        return groups


@dataclass(frozen=True)
class _Canvas:
    """The image that coordinates belong to."""

    size: Size
    orientation: int
    """EXIF orientation that takes it to the upright image; 1 where it is upright."""


def examples_of(images: Sequence[AnnotatedImage], labels: Iterable[str], left: LeftOut) -> Iterator[SupportExample]:
    """Examples of the labels, in their order; images are looked for when an example of them is asked for."""
    found: dict[int, Path | Image.Image | None] = {}
    owners: dict[Path, AnnotatedImage] = {}
    groups = [image.by_label() for image in images]
    for label in dict.fromkeys(labels):
        for number, image in enumerate(images):
            if label not in groups[number]:
                continue
            if number not in found:
                found[number] = _found(image, owners, left)
            file = found[number]
            if file is not None:
                yield _example(label, groups[number][label], image, file, left)


def _found(image: AnnotatedImage, owners: dict[Path, AnnotatedImage], left: LeftOut) -> Path | Image.Image | None:
    try:
        file = image.find()
    except InvalidSupport as error:
        left.bad(error)
        return None
    if isinstance(file, Path) and owners.setdefault(file, image) is not image:
        raise InvalidSupport(
            f"{owners[file].where} and {image.where}: both would be {file}; keep the folders that the file names "
            "below --images"
        )
    return file


def _example(
    label: str, shapes: list[Shape], image: AnnotatedImage, file: Path | Image.Image, left: LeftOut
) -> SupportExample:
    drawn = [shape for shape in shapes if shape.fill is not None]
    boxes = [shape for shape in shapes if shape.fill is None]
    share = None
    if image.size is not None and all(shape.area is not None for shape in shapes):
        share = sum(shape.area or 0.0 for shape in shapes) / (image.size[0] * image.size[1])
    return SupportExample(
        label,
        file,
        partial(_mask, drawn, image, file, left) if drawn else None,
        value=1,
        share=share,
        load_prompts=partial(_boxes, boxes, image, file, left) if boxes else None,
    )


def _mask(shapes: Sequence[Shape], image: AnnotatedImage, file: Path | Image.Image, left: LeftOut) -> ImageLike:
    """0, 1 for the label and 255 for what is ignored, for the upright image."""
    canvas = _canvas(image, shapes, file, left)
    mask = np.zeros(canvas.size[::-1], np.uint8)
    for part in _filled(image.ignored, canvas.size, left):
        mask[part] = IGNORE
    filled = _filled(shapes, canvas.size, left, all_are_needed=len(shapes) == 1)
    if not filled:
        raise InvalidSupport(f"none of the {len(shapes)} regions in {image.where} can be used")
    for part in filled:
        mask[part] = 1
    return upright_values(mask, canvas.orientation)


def _filled(shapes: Sequence[Shape], size: Size, left: LeftOut, *, all_are_needed: bool = False) -> list[Mask]:
    """The masks of the shapes that can be drawn; raises `FewsegError` for one that cannot, where it is needed."""
    masks = []
    for shape in shapes:
        assert shape.fill is not None
        try:
            mask = shape.fill(size)
            if not mask.any():
                raise InvalidSupport(f"{shape.where} covers no pixel of its image: draw it again, or remove it")
            masks.append(mask)
        except FewsegError as error:
            if all_are_needed:
                raise
            left.bad(error)
    return masks


def _boxes(
    shapes: Sequence[Shape], image: AnnotatedImage, file: Path | Image.Image, left: LeftOut
) -> tuple[Prompt, ...]:
    canvas = _canvas(image, shapes, file, left)
    prompts = []
    for shape in shapes:
        assert shape.box is not None
        try:
            prompts.append(Prompt.of(box=_turned_box(shape.box(canvas.size), canvas)))
        except InvalidSupport as error:
            reason = InvalidSupport(f"{shape.where}: {error}")
            if len(shapes) == 1:
                raise reason from None
            left.bad(reason)
    if not prompts:
        raise InvalidSupport(f"none of the {len(shapes)} boxes in {image.where} can be used")
    return tuple(prompts)


def _turned_box(box: Box, canvas: _Canvas) -> Box:
    """The box after the turn that takes the canvas to the upright image."""
    (width, height), turn = canvas.size, canvas.orientation
    x0, y0, x1, y1 = box
    if turn in (2, 3, 7, 8):
        x0, x1 = width - x1, width - x0
    if turn in (3, 4, 6, 7):
        y0, y1 = height - y1, height - y0
    return (y0, x0, y1, x1) if turn >= 5 else (x0, y0, x1, y1)


def _canvas(image: AnnotatedImage, shapes: Sequence[Shape], file: Path | Image.Image, left: LeftOut) -> _Canvas:
    """The image that the coordinates belong to: upright, or as stored, before it was turned.

    The stated size decides; where both would do, the tool, and then how far shapes reach. What stays open is said.
    """
    upright, turn = header_of(file)
    stored = upright_size(upright, turn)
    stated = image.size
    if stated is not None and stated not in (upright, stored):
        raise InvalidSupport(
            f"{image.where} is {stated[0]}x{stated[1]} there, and the image is {upright[0]}x{upright[1]}: shapes would "
            "lie elsewhere; give the images that were annotated"
        )
    if turn == 1 or image.upright or (stated == upright != stored):
        return _Canvas(upright, 1)
    name = file if isinstance(file, Path) else image.where
    if stated is None or stated == upright:
        left.note(f"{name} has EXIF orientation {turn}: its shapes are taken as drawn on the upright image")
        return _Canvas(upright, 1)
    reaches = [shape.reach() for shape in shapes if shape.reach is not None]
    across, down = (max((reach[i] for reach in reaches), default=0) for i in (0, 1))
    if (across > stored[0] + 1 or down > stored[1] + 1) and across <= upright[0] + 1 and down <= upright[1] + 1:
        return _Canvas(upright, 1)
    left.note(
        f"{name} has EXIF orientation {turn} and its file states the size before turning: its shapes are taken as "
        "drawn before turning; if they were drawn on the upright image, state its upright size"
    )
    return _Canvas(stored, turn)
