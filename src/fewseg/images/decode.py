"""Opening image files: one place for size limits, orientation and what can go wrong.

Pillow refuses files above 179 megapixels and warns above 89 through a global setting. Aerial and scanned images are
larger than that, so files are opened with that check off and `MAX_PIXELS` is applied here instead. The setting is put
back as soon as the header is read (the whole file, for a TIFF above the limit); one of our threads at a time does that,
but other code that opens images with Pillow in that moment goes unchecked, and a change it makes to the setting then
is lost.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from fewseg.core.errors import FewsegError, one_line
from fewseg.images.integrity import require_whole
from fewseg.images.kinds import FORMATS, MASK_FORMATS, unread

if TYPE_CHECKING:
    import torch
    from typing_extensions import TypeIs

ImageLike: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | torch.Tensor"
"""A file, a Pillow image, an array or a tensor."""

MAX_PIXELS: Final = 1_000_000_000
"""Largest image that is opened, in pixels (width x height): a decoded gigapixel takes 4 GB."""

_OPENING = threading.Lock()

_Kind = Literal["image", "mask"]


def open_file(path: str | os.PathLike[str], kind: _Kind, error: type[FewsegError]) -> Image.Image:
    """The file's first frame, header read, pixels not decoded yet; raises `error` naming the file."""
    name = os.fspath(path)
    if not os.path.exists(name):
        raise error(f"{name}: no such file; check the path of the {kind}")
    if os.path.isdir(name):
        raise error(f"{name} is a folder: give one {kind} file")
    if not os.path.isfile(name):
        raise error(f"{name} is a pipe or device, which may never end: give one {kind} file")
    if os.path.getsize(name) == 0:
        raise error(f"{name} is empty: get the whole file again")
    try:
        image = _open_unchecked(name)
    except UnidentifiedImageError:
        if (kinds := unread([name])) is not None:
            raise error(f"{name} is of a kind that is not read: {kinds}") from None
        raise error(f"{name} is not a readable {kind} (damaged, or no known format): save it again as PNG") from None
    except PermissionError:
        raise error(f"{name}: no permission to read it; change its permissions") from None
    except Exception as reason:  # Pillow's readers raise anything on damaged headers
        raise error(f"{name} cannot be opened ({one_line(reason)}): save the {kind} again as PNG") from reason
    check_pixels(image.size, name, error)
    if kind == "mask":
        require_mask_format(image, name, error)
    return image


def require_mask_format(image: Image.Image, name: str, error: type[FewsegError]) -> None:
    """Raise `error` for a mask in a file of a format that changes values, or in which damage does not show."""
    if isinstance(image, ImageFile.ImageFile) and image.format not in MASK_FORMATS:
        raise error(
            f"{name} is a {image.format}, which does not keep a mask's values, or not safely: save the mask as PNG "
            "(TIFF and BMP will do)"
        )


def _open_unchecked(name: str) -> Image.Image:
    with _unchecked():
        return Image.open(name, formats=FORMATS)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Pillow's global limit lifted, by one thread at a time."""
    with _OPENING:
        before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def check_pixels(size: tuple[int, int], name: str, error: type[FewsegError]) -> None:
    """Raise `error` for an image without pixels or with more than `MAX_PIXELS`."""
    width, height = size
    if width < 1 or height < 1:
        raise error(f"{name} is {width}x{height}: it has no pixels")
    if width * height > MAX_PIXELS:
        raise error(f"{name} is {width}x{height}, over the limit of {MAX_PIXELS // 10**6} megapixels: make it smaller")


def decode(image: Image.Image, name: str, error: type[FewsegError]) -> Image.Image:
    """Read the pixels now; raises `error` naming the file when it is damaged or cut off.

    Gives the image itself, or one in the byte order that Pillow can work with: of 16-bit big-endian TIFFs it can read
    the pixels but hardly do anything with them.
    """
    try:
        if isinstance(image, ImageFile.ImageFile):
            require_whole(image)
        _load(image)
        if image.mode.startswith("I;16") and image.mode != "I;16":
            return Image.fromarray(np.asarray(image).astype(np.uint16))
    except MemoryError:
        raise error(f"{name} ({image.width}x{image.height}) does not fit in memory: make it smaller") from None
    except Exception as reason:  # Pillow's decoders raise anything on damaged data
        raise error(f"{name} is damaged or cut off ({one_line(reason)}): get the whole file again") from reason
    return image


def _load(image: Image.Image) -> None:
    """`image.load()`, around what Pillow does differently for TIFF."""
    limit = Image.MAX_IMAGE_PIXELS
    if image.format != "TIFF" or not isinstance(image, ImageFile.ImageFile):
        image.load()
        return
    # A memory-mapped TIFF that is to be turned comes out scrambled from Pillow 13; without a name it is not mapped.
    name, image.filename = image.filename, ""
    try:
        # TIFFs meet the limit a second time when they are decoded.
        with _unchecked() if limit is not None and image.width * image.height > limit else nullcontext():
            image.load()
    finally:
        image.filename = name


def is_tensor(value: Any) -> TypeIs[torch.Tensor]:
    """Whether the value is a torch tensor; imports no torch, for whoever made a tensor has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def to_numpy(values: np.ndarray | torch.Tensor) -> np.ndarray:
    """A tensor's values as an array (bfloat16, which numpy lacks, as float32); arrays as they are."""
    if not is_tensor(values):
        return values
    values = values.detach().cpu()
    array: np.ndarray = (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
    return array


def channels_last(values: np.ndarray, first: bool, allowed: tuple[int, ...]) -> np.ndarray:
    """(H, W) or (H, W, C) of an array whose channels stand first or last; one channel is squeezed away.

    Where both readings fit, `first` decides; where none fits, an array that is neither 2-D nor 3-D comes back.
    """
    if values.ndim != 3:
        return values if values.ndim == 2 else values.reshape(-1)
    at_front, at_end = values.shape[0] in allowed, values.shape[2] in allowed
    if not (at_front or at_end):
        return values.reshape(-1)
    if at_front and (first or not at_end):
        values = np.moveaxis(values, 0, 2)
    return values[..., 0] if values.shape[2] == 1 else values
