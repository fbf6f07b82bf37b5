"""Images of results: masks over the image, and many images on one sheet."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fewseg.core.errors import InvalidImage, InvalidMask
from fewseg.core.prediction import Prediction
from fewseg.images.read import ImageLike, fitted, read_image

Colour: TypeAlias = tuple[int, int, int]

PALETTE: Final[tuple[Colour, ...]] = (
    (0, 114, 178),
    (213, 94, 0),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (230, 159, 0),
)
"""Colours that people with any kind of colour vision tell apart (Okabe and Ito, 2008), strongest contrasts first."""

OVERLAY_SIDE: Final = 2048
"""Longest side of overlays."""

_LEGEND_SIDE: Final = 64
"""Images with a shorter side than this get no legend: it would hide them."""


def label_colours(labels: Sequence[str]) -> dict[str, Colour]:
    """A colour for each label: the palette, then lighter and darker turns of it."""
    return {label: _colour(i) for i, label in enumerate(labels)}


def _colour(index: int) -> Colour:
    turn, place = divmod(index, len(PALETTE))
    goal, share = ((0, 0.0), (255, 0.3), (0, 0.3))[turn % 3]
    red, green, blue = (round(v + (goal - v) * share) for v in PALETTE[place])
    return red, green, blue


def overlay(
    image: ImageLike,
    found: Prediction | Mapping[str, NDArray[Any]],
    colours: Mapping[str, Colour] | None = None,
    *,
    opacity: float = 0.45,
    legend: bool = True,
) -> Image.Image:
    """The image under translucent masks with outlines, and a legend of the labels.

    Args:
        image: the image.
        found: what the segmenter found, or label to mask (H, W) at the image's size. Of a prediction the label map
            is drawn, so that labels do not hide each other, and labels that are not present as outlines only.
        colours: label to RGB; `label_colours` for those not given.
        opacity: of the filled masks, 0 to 1.
        legend: whether to name the labels, with their scores.

    Raises:
        InvalidMask: a mask of another size than the image.
    """
    original = read_image(image)
    prediction = found if isinstance(found, Prediction) else None
    masks: Mapping[str, NDArray[Any]]
    masks = _resolved(found) if isinstance(found, Prediction) else found
    chosen = {**label_colours(tuple(masks)), **(colours or {})}
    thickness = max(1, round(max(original.size) / 320))
    for label, mask in masks.items():
        if mask.shape != (original.height, original.width):
            raise InvalidMask(
                f"the mask of {label!r} is {mask.shape[-1]}x{mask.shape[0]}, the image {original.width}x"
                f"{original.height}: give masks at the image's size"
            )
    result = original.copy()
    rows, columns = _around(masks.values(), (original.height, original.width), 2 * thickness)
    if rows.stop and columns.stop:
        box = (columns.start, rows.start, columns.stop, rows.stop)
        pixels = np.array(original.crop(box), np.float32)
        for label, mask in masks.items():
            filled = opacity if prediction is None or prediction.present[label] else 0.0
            _paint(pixels, mask[rows, columns] > 0, chosen[label], filled, thickness)
        result.paste(Image.fromarray((pixels + 0.5).astype(np.uint8)), box)
    if legend and min(original.size) >= _LEGEND_SIDE:
        _draw_legend(result, _legend_lines(tuple(masks), prediction), [chosen[label] for label in masks])
    return result


def _resolved(found: Prediction) -> dict[str, NDArray[np.bool_]]:
    """Label to where the label map has it."""
    return {label: found.label_map == i for i, label in enumerate(found.labels, 1)}


def _around(masks: Iterable[NDArray[Any]], shape: tuple[int, int], margin: int) -> tuple[slice, slice]:
    """Rows and columns that hold all the masks (H, W) with a margin; empty ones where no mask has anything."""
    rows, columns = np.zeros(shape[0], np.bool_), np.zeros(shape[1], np.bool_)
    for mask in masks:
        rows |= mask.any(1)
        columns |= mask.any(0)
    spans = []
    for filled in (rows, columns):
        places = np.flatnonzero(filled)
        first, last = (int(places[0]), int(places[-1])) if len(places) else (margin, -margin - 1)
        spans.append(slice(max(0, first - margin), min(len(filled), last + margin + 1)))
    return spans[0], spans[1]


def _paint(pixels: NDArray[np.float32], mask: NDArray[np.bool_], colour: Colour, opacity: float, thick: int) -> None:
    """Blend one mask into `pixels` (H, W, 3), in place: filling, a soft dark rim outside, the outline inside."""
    paint = np.asarray(colour, np.float32)
    inner = ~grown(~mask, thick)
    rim = grown(mask, max(1, thick // 2)) & ~mask
    if opacity:
        kept = pixels[inner]
        kept += (paint - kept) * np.float32(opacity)
        pixels[inner] = kept
    pixels[rim] *= np.float32(0.6)
    pixels[mask & ~inner] = paint


def grown(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """The mask (H, W) grown by `radius` pixels in every direction, corners included."""
    result = np.ascontiguousarray(mask)
    for axis in (0, 1):
        result = _grown_along(result, radius, axis)
    return result


def _grown_along(mask: NDArray[np.bool_], radius: int, axis: int) -> NDArray[np.bool_]:
    """Grown both ways along one axis: steps of 1, 2, 4 ... reach as far as all of them one by one."""
    result, reach = mask.copy(), 0
    while reach < radius:
        step = min(reach + 1, radius - reach)
        before, length = result.copy(), mask.shape[axis]
        if step < length:
            towards, away = [slice(None)] * 2, [slice(None)] * 2
            towards[axis], away[axis] = slice(step, None), slice(length - step)
            result[tuple(towards)] |= before[tuple(away)]
            result[tuple(away)] |= before[tuple(towards)]
        reach += step
    return result


def _legend_lines(labels: Sequence[str], prediction: Prediction | None) -> list[str]:
    if prediction is None:
        return list(labels)
    absent = {label: "" if prediction.present[label] else " (not found)" for label in labels}
    return [f"{label}  {prediction.scores[label]:.2f}{absent[label]}" for label in labels]


def _draw_legend(image: Image.Image, lines: Sequence[str], colours: Sequence[Colour]) -> None:
    """A translucent dark box at the lower left with a swatch a label, as many as fit."""
    size = max(10, round(max(image.size) / 36))
    pad, step = size // 2, round(size * 1.4)
    room = max(1, (image.height - 3 * pad) // step)
    entries: list[tuple[str, Colour | None]] = list(zip(lines, colours, strict=True))
    if len(entries) > room:
        entries = [*entries[: room - 1], (f"and {len(entries) - room + 1} more", None)]
    font = ImageFont.load_default(size)
    entries = [(_shortened(line, font, image.width - 5 * pad - size), colour) for line, colour in entries]
    width = round(max((font.getlength(line) for line, _ in entries), default=0)) + size + 3 * pad
    height = step * len(entries) + pad
    left, top = pad, image.height - height - pad
    draw = ImageDraw.Draw(image, "RGBA")
    draw.rounded_rectangle((left, top, left + width, top + height), pad, fill=(16, 18, 22, 190))
    for i, (line, colour) in enumerate(entries):
        y = top + pad // 2 + i * step + step // 2
        if colour is not None:
            box = (left + pad, y - size // 2, left + pad + size, y + size // 2)
            draw.rounded_rectangle(box, size // 4, fill=colour)
        draw.text((left + 2 * pad + size, y), line, fill=(255, 255, 255, 255), font=font, anchor="lm")


def _shortened(line: str, font: Any, width: float) -> str:
    """The line, or as much of it as `width` pixels hold."""
    line = " ".join(line.splitlines())
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(line + "...") > width:
        line = line[:-1]
    return line + "..."


def contact_sheet(
    images: Sequence[ImageLike],
    titles: Sequence[str] | None = None,
    *,
    columns: int | None = None,
    side: int = 320,
) -> Image.Image:
    """Images in rows on a white sheet, each shrunk or grown to fit a square of `side` pixels, titles below.

    `columns` is about the square root of their number if not given. Raises `InvalidImage` for no images, or titles
    that are not one an image.
    """
    if not images:
        raise InvalidImage("no images for the sheet: give at least one")
    if titles is not None and len(titles) != len(images):
        raise InvalidImage(f"{len(titles)} titles for {len(images)} images: give one each")
    columns = min(max(1, columns or math.ceil(math.sqrt(len(images)))), len(images))
    gap, text = max(2, side // 32), max(10, side // 20)
    below = round(text * 1.5) if titles is not None else 0
    shown = [fitted(read_image(image), side) for image in images]
    rows = [shown[i : i + columns] for i in range(0, len(shown), columns)]
    heights = [max(image.height for image in row) for row in rows]
    sheet = Image.new("RGB", (columns * (side + gap) + gap, sum(heights) + len(rows) * (below + gap) + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(text)
    y = gap
    for r, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for c, image in enumerate(row):
            x = gap + c * (side + gap)
            sheet.paste(image, (x + (side - image.width) // 2, y + (height - image.height) // 2))
            if titles is not None:
                line = _shortened(titles[r * columns + c], font, side)
                draw.text((x + side / 2, y + height + below / 2), line, fill=(30, 30, 30), font=font, anchor="mm")
        y += height + below + gap
    return sheet


def overlay_of(
    image: Image.Image,
    found: Prediction | Mapping[str, NDArray[Any]],
    colours: Mapping[str, Colour] | None = None,
    *,
    side: int = OVERLAY_SIDE,
) -> Image.Image:
    """The overlay, at most `side` pixels long, of masks of any size on an image of any size.

    Of masks larger than that, the pixel under the centre of each of the overlay's is drawn.
    """
    small = fitted(image, side, enlarge=False)
    masks = found.masks if isinstance(found, Prediction) else found
    height, width = next((mask.shape for mask in masks.values()), (small.height, small.width))
    if small.size == (width, height):
        return overlay(small, found, colours)
    rows = ((np.arange(small.height) + 0.5) * height / small.height).astype(int)[:, None]
    columns = ((np.arange(small.width) + 0.5) * width / small.width).astype(int)
    masks = {label: mask[rows, columns] for label, mask in masks.items()}
    if isinstance(found, Prediction):
        return overlay(small, replace(found, masks=masks, label_map=found.label_map[rows, columns]), colours)
    return overlay(small, masks, colours)
