"""Masks of every kind to foreground (1), background (0) and ignored pixels (255).

Without a chosen `value` a mask has two values: zero (or black, or transparent) is background, the other foreground.
With `value="instances"` the mask is an instance map: every value beside 0 is one object, all are foreground.
With a chosen value (an index, or an RGB colour) its pixels are foreground and everything else is background; beside a
chosen index, 255 is ignored, as in PASCAL VOC. Palette images are read by their indices.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidMask
from fewseg.core.prediction import IGNORE
from fewseg.images import decode as decoding
from fewseg.images import orientation as turns
from fewseg.images.decode import ImageLike
from fewseg.images.pages import tell_rest

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MaskValue: TypeAlias = "int | tuple[int, int, int] | Literal['instances']"
"""Which pixels are foreground: an index, an RGB colour, or in an instance map all that are not 0."""

INSTANCES: Final[Literal["instances"]] = "instances"
"""The value of masks that are instance maps."""

_CHUNK: Final = 1 << 22
"""Pixels that are looked at together: keeps the working memory of huge masks small."""

_MOST_OBJECTS: Final = 100_000
"""Objects of an instance map."""

_MANY: Final = 1000
"""With more values than this a mask is a photograph; counting stops."""


@dataclass(frozen=True)
class _Raw:
    """A mask as found."""

    values: NDArray[Any]
    """(H, W); colours are packed as 0xRRGGBB."""
    name: str
    colours: bool = False
    background: int = 0
    """The value that is background when nothing is chosen."""
    turned: bool = False
    """Whether its file had an orientation, by which it has been turned."""


def read_mask(
    mask: ImageLike,
    *,
    value: MaskValue | None = None,
    size: tuple[int, int] | None = None,
    orientation: int = 1,
    image: str = "the image",
) -> NDArray[np.uint8]:
    """The mask as (H, W) of 0 background, 1 foreground, 255 ignored.

    `size` is the upright image's (width, height), `orientation` its EXIF orientation and `image` its name: a mask drawn
    on the image as stored, before turning it upright, is turned likewise. A mask with an orientation of its own says
    so; of others the size tells, one that fits both ways counts as drawn on the upright image, and the log says what
    was taken.

    Raises `InvalidMask` for a mask that cannot be read, is of another size, has no foreground, or has more than two
    values and no chosen one.

    Examples:
        >>> import numpy as np
        >>> read_mask(np.array([[0, 3, 255]]), value=3)
        array([[  0,   1, 255]], dtype=uint8)
    """
    if value == INSTANCES:
        return (read_instances(mask, size=size, orientation=orientation, image=image) > 0).astype(np.uint8)
    raw = _fit(_read(mask, value), size, orientation, image)
    if value is None:
        return _two_valued(raw)
    chosen = _comparable(raw, value)
    foreground = raw.values == chosen
    if not foreground.any():
        raise InvalidMask(f"{raw.name} has no foreground: no pixel is {value}, it holds {_listed(raw, _unique(raw))}")
    result: NDArray[np.uint8] = foreground.view(np.uint8)
    if not raw.colours and chosen != IGNORE:
        result[raw.values == IGNORE] = IGNORE
    return result


def read_instances(
    mask: ImageLike, *, size: tuple[int, int] | None = None, orientation: int = 1, image: str = "the image"
) -> NDArray[np.int32]:
    """An instance map as (H, W) of 0 background and objects numbered from 1, in the order of their values.

    Every value or colour of `mask` but 0 (black, transparent) is an object, 255 as well; palette images are read by
    their indices. Arguments as in `read_mask`; raises `InvalidMask`, also where there is no object.

    Examples:
        >>> import numpy as np
        >>> read_instances(np.array([[0, 7, 300, 7]]))
        array([[0, 1, 2, 1]], dtype=int32)
    """
    raw = _fit(_read(mask, 0), size, orientation, image)
    found, numbers = np.unique(raw.values, return_inverse=True)
    if found[0] < 0 or (raw.values.dtype.kind == "f" and (found % 1).any()):
        raise InvalidMask(f"{raw.name} has the value {found[0]:g}: give an instance map of whole numbers from 0")
    if not found.any():
        raise InvalidMask(f"{raw.name} has no object: every pixel is 0; give each object a number of its own")
    if len(found) > _MOST_OBJECTS:
        raise InvalidMask(f"{raw.name} has {len(found)} values, as a photograph: save the instance map as PNG or TIFF")
    return (numbers.reshape(raw.values.shape) + (found[0] != 0)).astype(np.int32)


def _read(mask: ImageLike, value: MaskValue | None) -> _Raw:
    raw = _from_array(mask) if isinstance(mask, np.ndarray) or decoding.is_tensor(mask) else _from_image(mask, value)
    if raw.values.dtype.kind == "f" and not np.isfinite(raw.values).all():
        raise InvalidMask(f"{raw.name} holds values that are no finite numbers: give 0 and 1")
    return raw


def mask_values(mask: str | os.PathLike[str] | Image.Image) -> list[int]:
    """The values (colours as 0xRRGGBB) that a mask holds beside its background, ascending; raises `InvalidMask`."""
    raw = _from_image(mask, None)
    return [value for value in _unique(raw) if value != raw.background]


def _from_array(mask: np.ndarray | torch.Tensor) -> _Raw:
    values = decoding.channels_last(decoding.to_numpy(mask), decoding.is_tensor(mask), (1, 3, 4))
    if values.ndim not in (2, 3) or values.dtype.kind not in "buif":
        raise InvalidMask(f"the mask is a {mask.dtype} array of shape {tuple(mask.shape)}: give numbers as (H, W)")
    decoding.check_pixels((values.shape[1], values.shape[0]), "the mask", InvalidMask)
    if values.ndim == 3 and values.dtype != np.uint8:
        values = _one_of(mask, values)
    return _packed(values, "the mask")


def _one_of(mask: np.ndarray | torch.Tensor, values: NDArray[Any]) -> NDArray[Any]:
    """The mask (H, W) of an image (H, W, C) of one in bool or float; raises `InvalidMask` for several masks."""
    shape, last = tuple(mask.shape), tuple(mask.shape) == values.shape
    alike = all(np.array_equal(values[..., 0], values[..., plane]) for plane in (1, 2))
    if alike and last and values.shape[2] == 3:
        return values[..., 0]
    about = f"the mask is a {mask.dtype} array of shape {shape}"
    if values.dtype == np.bool_ or alike or len(np.unique(values)) <= 2:
        raise InvalidMask(f"{about}, so {values.shape[2]} masks: give one, as mask[{'..., 0' if last else '0'}]")
    raise InvalidMask(f"{about}: give one mask (H, W), or colours as uint8")


def _from_image(mask: str | os.PathLike[str] | Image.Image, value: MaskValue | None) -> _Raw:
    if isinstance(mask, (str, os.PathLike)):
        name, image = os.fspath(mask), decoding.open_file(mask, "mask", InvalidMask)
        tell_rest(mask, image)
    elif isinstance(mask, Image.Image):
        name, image = getattr(mask, "filename", "") or "the mask", mask
        decoding.check_pixels(image.size, name, InvalidMask)
    else:
        raise InvalidMask(f"a mask is a path, Pillow image, array or tensor, not a {type(mask).__name__}")
    decoding.require_mask_format(image, name, InvalidMask)
    turn = turns.tiff_orientation(image)
    decoded = decoding.decode(image, name, InvalidMask)
    turn, image = max(turn, turns.orientation(image)), turns.upright(decoded, turns.orientation(image))
    if image.mode == "P" and not isinstance(value, tuple):
        raw = _Raw(np.asarray(image), name, turned=turn != 1)
        return replace(raw, background=_darkest(image, raw)) if value is None else raw
    if image.mode in ("1", "L", "F") or image.mode.startswith("I"):
        return _Raw(np.asarray(image), name, turned=turn != 1)
    raw = _packed(np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB")), name)
    return replace(raw, turned=turn != 1)


def _darkest(image: Image.Image, raw: _Raw) -> int:
    """The background index: 0, or of two colours the transparent or the black one: tools that shrink PNGs reorder."""
    palette = image.getpalette("RGB") or []
    used = _unique(raw)
    clear = image.info.get("transparency")  # one index, or the opacity of the first ones
    if len(used) == 2 and clear is not None:
        through = [i for i in used if (i == clear if isinstance(clear, int) else i < len(clear) and clear[i] < 128)]
        if len(through) == 1:
            return int(through[0])
    black = [i for i in used if palette[3 * i : 3 * i + 3] == [0, 0, 0]]
    return black[0] if len(used) == 2 and len(black) == 1 else 0


def _packed(values: NDArray[Any], name: str) -> _Raw:
    """One number a pixel: grey values as they are, colours packed, transparent pixels 0."""
    if values.ndim == 2:
        return _Raw(values, name)
    packed = np.empty(values.shape[:2], np.uint32)
    grey = True
    rows = max(1, _CHUNK // values.shape[1])
    for top in range(0, len(values), rows):
        part = values[top : top + rows].astype(np.uint32)
        if part.shape[2] == 4:
            part[part[..., 3] < 128] = 0
        red, green, blue = part[..., 0], part[..., 1], part[..., 2]
        grey = grey and bool((red == green).all() and (green == blue).all())
        packed[top : top + rows] = (red << 16) | (green << 8) | blue
    return _Raw((packed & 255).astype(np.uint8), name) if grey else _Raw(packed, name, colours=True)


def _fit(raw: _Raw, size: tuple[int, int] | None, orientation: int, image: str) -> _Raw:
    """The mask of an upright image of `size`, turned when it was drawn on the image as stored."""
    height, width = raw.values.shape
    if size is None:
        return raw
    stored = turns.upright_size((width, height), orientation) == size
    if (width, height) == size:
        if stored and orientation != 1 and not raw.turned:
            _tell_turn(image, "fits it as stored, too: it is taken as drawn on the upright image", orientation)
        return raw
    if stored:
        if not raw.turned:
            _tell_turn(image, "has the size of the image as stored: it is taken as drawn before turning", orientation)
        # Pillow turns 8-bit and 32-bit images only; numpy can turn any.
        return replace(raw, values=turns.upright_values(raw.values, orientation))
    raise InvalidMask(
        f"{raw.name} is {width}x{height}, its image {size[0]}x{size[1]}: save the mask at the image's size"
    )


@lru_cache(maxsize=4096)
def _tell_turn(image: str, what: str, orientation: int) -> None:
    """Log how a mask is taken, once for each image: nothing in the files says which is right."""
    log.warning(
        "%s is turned upright (EXIF orientation %d), and its mask %s; if that is wrong, save image and mask upright, "
        "without EXIF",
        image,
        orientation,
        what,
    )


def _two_valued(raw: _Raw) -> NDArray[np.uint8]:
    found = _unique(raw)
    foreground = [v for v in found if v != raw.background]
    if not foreground:
        raise InvalidMask(f"{raw.name} has no foreground: every pixel is 0; mark the object with 255")
    if len(foreground) > 1:
        chosen = "value=(r, g, b)" if raw.colours else "value=..."
        remedy = f"save it with 0 and 255 only, or from Python choose the foreground with {chosen}"
        if len(found) > 20:
            remedy = "save it as PNG without smoothing, 0 and 255 only"
        raise InvalidMask(f"{raw.name} has more than two values ({_listed(raw, found)}): {remedy}")
    result: NDArray[np.uint8] = (raw.values == foreground[0]).view(np.uint8)
    return result


def _comparable(raw: _Raw, value: MaskValue) -> int:
    """The chosen value as it stands in `raw.values`."""
    if isinstance(value, (int, np.integer)):
        if raw.colours:
            raise InvalidMask(f"{raw.name} is a colour image: choose the foreground with value=(r, g, b), not {value}")
        return int(value)
    numbers: list[Any] = list(value) if np.ndim(value) == 1 else []
    if len(numbers) != 3 or not all(isinstance(v, (int, np.integer)) and 0 <= v <= 255 for v in numbers):
        raise InvalidMask(f"value {value!r} is neither an index nor a colour of three numbers from 0 to 255")
    red, green, blue = (int(v) for v in numbers)
    if raw.colours:
        return (red << 16) + (green << 8) + blue
    if not red == green == blue:
        raise InvalidMask(f"{raw.name} has no foreground: it is grey, no pixel is {value}")
    return red


def _unique(raw: _Raw) -> list[Any]:
    """The values in ascending order; stops counting above `_MANY`."""
    found: set[Any] = set()
    flat = raw.values.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        found.update(np.unique(flat[start : start + _CHUNK]).tolist())
        if len(found) > _MANY:
            break
    return sorted(found)


def _listed(raw: _Raw, found: list[Any]) -> str:
    """The values for a message, the first few of many."""
    names = [str((v >> 16, (v >> 8) & 255, v & 255)) if raw.colours else f"{v:g}" for v in found[:8]]
    return ", ".join(names) + (f" ... {len(found)} in all" if len(found) > 8 else "")
