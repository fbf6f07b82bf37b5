"""Images and other files as the body of an HTTP request: `multipart/form-data`."""

from __future__ import annotations

import io
import mimetypes
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidImage
from fewseg.images import decode as decoding
from fewseg.images.orientation import orientation, upright

Sendable: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"
"""A file, its bytes, a Pillow image, or an array that Pillow takes (uint8; bool for masks)."""

Form: TypeAlias = tuple[str, bytes]
"""Content type and body of a request."""


def encode_form(fields: Sequence[tuple[str, str]], files: Sequence[tuple[str, Sendable]]) -> Form:
    """Content type and body of a form; raises `InvalidImage`."""
    boundary, body = uuid.uuid4().hex, io.BytesIO()
    for name, value in fields:
        body.write(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
    for name, file in files:
        kind, content = _content(file)
        head = f'Content-Disposition: form-data; name="{name}"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
        body.write(f"--{boundary}\r\n{head}".encode() + content + b"\r\n")
    body.write(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", body.getvalue()


def _content(file: Sendable) -> tuple[str, bytes]:
    """Content type and content of an image or file; raises `InvalidImage`."""
    if isinstance(file, bytes):
        return "application/octet-stream", file
    if isinstance(file, (str, os.PathLike)):
        try:
            return mimetypes.guess_type(os.fspath(file))[0] or "application/octet-stream", Path(file).read_bytes()
        except OSError as error:
            raise InvalidImage(f"{os.fspath(file)} cannot be read ({error.strerror}): check the path") from error
    image = _from_array(file) if isinstance(file, np.ndarray) else file
    if not isinstance(image, Image.Image):
        raise InvalidImage(f"a {type(file).__name__} is no image: give a path, bytes, a Pillow image or an array")
    buffer = io.BytesIO()
    try:
        decoded = decoding.decode(image, "the image", InvalidImage)
        image = upright(decoded, orientation(image))  # the PNG does not carry the orientation
        image.save(buffer, "PNG")
    except (OSError, ValueError) as error:
        raise InvalidImage(f"the image cannot be sent ({error}): save it as PNG and give the path") from error
    return "image/png", buffer.getvalue()


def _from_array(values: NDArray[Any]) -> Image.Image:
    error = f"an array of {values.dtype} {values.shape} is no image or mask: give uint8 (H, W[, 3]), or bool (H, W)"
    if np.issubdtype(values.dtype, np.floating):
        raise InvalidImage(error)
    try:
        return Image.fromarray(values.astype(np.uint8) * 255 if values.dtype == np.bool_ else values)
    except (TypeError, ValueError):
        raise InvalidImage(error) from None
