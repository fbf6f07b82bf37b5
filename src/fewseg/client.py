"""A client of `fewseg serve`: a small one, over the standard library.

>>> from fewseg.client import Client                                   # doctest: +SKIP
>>> with Client("http://127.0.0.1:8000").session("pets") as session:   # doctest: +SKIP
...     session.teach("cat", "tom.jpg", "tom.png")
...     found = session.segment("street.jpg")
"""

from __future__ import annotations

import http.client
import io
import json
import mimetypes
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from fewseg.core.errors import FewsegError, InvalidImage, one_line
from fewseg.core.files import write_bytes
from fewseg.images import decode as decoding
from fewseg.images.prompts import Mark

Sendable: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]"
"""A file, its bytes, a Pillow image, or an array that Pillow takes (uint8; bool for masks)."""


class ServerError(FewsegError):
    """The server refused a request, or cannot be reached."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 where there was no answer."""


@dataclass(frozen=True)
class Found:
    """What the server found in one image, at its own size after EXIF rotation."""

    masks: dict[str, NDArray[np.bool_]]
    """Label to mask (H, W)."""
    scores: dict[str, float]
    """Label to how sure the model is that it is in the image."""
    present: dict[str, bool]
    """Label to whether its score reaches the threshold."""
    model: str
    """Changes with the model's weights."""


class Client:
    """One server; safe to use from several threads."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        token: str | None = None,
        *,
        timeout: float = 180,
        retries: int = 8,
    ) -> None:
        """`timeout`: seconds for each answer; `retries`: how often to come again to a busy server."""
        if not address.startswith(("http://", "https://")):
            raise ServerError(0, f"address {address!r}: write it as http://127.0.0.1:8000")
        self._address, self._token = address.rstrip("/"), token
        self._timeout, self._retries = timeout, retries

    def info(self) -> dict[str, Any]:
        """The server's version, model and limits."""
        return self._json("GET", "/info")

    def session(self, name: str | None = None) -> Session:
        """A new session."""
        return Session(self, self._json("POST", "/sessions", {"name": name} if name else {})["id"])

    def load(self, path: str | os.PathLike[str], name: str | None = None) -> Session:
        """A new session with what a file holds that `Session.save` or `fewseg.Segmenter.save` wrote."""
        fields = [("name", name)] if name else []
        made = self._json("POST", "/sessions/load", form=_Form(fields, [("file", path)]))
        return Session(self, made["id"])

    def _json(self, method: str, path: str, content: Any = None, form: _Form | None = None) -> Any:
        answer = self.request(method, path, content, form)
        try:
            return json.loads(answer) if answer else None
        except ValueError:
            raise ServerError(0, f"{self._address} does not answer as fewseg serve does: check the address") from None

    def request(self, method: str, path: str, content: Any = None, form: _Form | None = None) -> bytes:
        """The answer to a request below `/api/v1`, with JSON or a form; raises `ServerError`."""
        headers, body = {"Accept": "application/json"}, None
        if form is not None:
            headers["Content-Type"], body = form.encoded()
        elif content is not None:
            headers["Content-Type"], body = "application/json", json.dumps(content).encode()
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        for attempt in range(self._retries + 1):
            request = urllib.request.Request(f"{self._address}/api/v1{path}", body, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=self._timeout) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                if error.code != 503 or attempt == self._retries:
                    raise ServerError(error.code, _said(error)) from None
                time.sleep(_pause(error.headers.get("Retry-After")))
            except ValueError as error:
                raise ServerError(0, f"the address or the token cannot be sent ({one_line(error)})") from error
            except (OSError, http.client.HTTPException) as error:  # the latter: cut off, or no HTTP at all
                reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
                raise ServerError(
                    0, f"{self._address} cannot be reached ({reason}): is fewseg serve running?"
                ) from error
        raise AssertionError("unreachable")


class Session:
    """Labels of your own on a server; as a context manager it is deleted in the end."""

    def __init__(self, client: Client, identifier: str) -> None:
        self._client, self.id = client, identifier
        self._path = f"/sessions/{quote(identifier, safe='')}"

    def teach(
        self,
        label: str,
        image: Sendable | Sequence[Sendable],
        mask: Sendable | Sequence[Sendable] | None = None,
        *,
        value: int | tuple[int, int, int] | None = None,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        scribble: Sequence[Any] | None = None,
    ) -> list[str]:
        """Add examples; returns the ids of all that the label has.

        Args:
            label: any name.
            image: an image, or several.
            mask: the label's mask at the image's size; as many as images.
            value: which index or colour of the mask is the label.
            box: instead of a mask, for one image, as in `outline`.
            points: likewise.
            scribble: likewise.

        Raises:
            InvalidImage, InvalidSupport, ServerError: what cannot be sent, and what the server refuses; nothing has
                been added then.
        """
        images, masks = _listed(image), [] if mask is None else _listed(mask)
        fields = [("label", label)]
        if any(given is not None for given in (box, points, scribble)):
            fields.append(("marks", _marks(box, points, scribble)))
        if value is not None:
            fields.append(("value", ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)))
        files = [("image", image) for image in images] + [("mask", mask) for mask in masks]
        shots: list[str] = self._client._json("POST", f"{self._path}/shots", form=_Form(fields, files))["shots"]
        return shots

    def outline(
        self,
        image: Sendable,
        *,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        scribble: Sequence[Any] | None = None,
    ) -> NDArray[np.bool_]:
        """The mask (H, W) of the object that one of these stands for: what `teach` makes of it. Nothing is kept.

        Args:
            image: an image.
            box: x0, y0, x1, y1 around the object, in pixels of the upright image.
            points: each x, y, and 1 where it is inside or 0 where it is outside.
            scribble: a line inside, as places x, y; or several lines.

        Raises:
            InvalidImage, InvalidSupport, ServerError: what cannot be sent, and what the server refuses.
        """
        form = _Form([("marks", _marks(box, points, scribble))], [("image", image)])
        mask: NDArray[np.uint8] = coco.decode(self._client._json("POST", f"{self._path}/outline", form=form))
        return mask.astype(np.bool_)

    @property
    def labels(self) -> dict[str, list[str]]:
        """Labels with the ids of their examples."""
        return {label["name"]: label["shots"] for label in self._client._json("GET", f"{self._path}/labels")}

    def segment(self, image: Sendable, labels: Sequence[str] = ()) -> Found:
        """What was taught, found in an image; only `labels`, if any are named."""
        query = "?" + urlencode([("label", label) for label in labels]) if labels else ""
        answer = self._client._json("POST", f"{self._path}/segment{query}", form=_Form([], [("image", image)]))
        found = answer["labels"]
        return Found(
            masks={f["name"]: coco.decode(f["rle"]).astype(np.bool_) for f in found},
            scores={f["name"]: f["score"] for f in found},
            present={f["name"]: f["present"] for f in found},
            model=answer["model"],
        )

    def forget(self, label: str, shot: str | None = None) -> None:
        """Drop a label, or one of its examples by id."""
        path = f"/labels/{quote(label, safe='')}" if shot is None else f"/shots/{quote(shot, safe='')}"
        self._client.request("DELETE", self._path + path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what was taught to a file that `Client.load` and `fewseg.Segmenter.load` read."""
        write_bytes(path, self._client.request("GET", f"{self._path}/export"))

    def delete(self) -> None:
        """Forget the session."""
        self._client.request("DELETE", self._path)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.delete()
        except ServerError:
            if error is None:
                raise


@dataclass(frozen=True)
class _Form:
    """What a form sends."""

    fields: Sequence[tuple[str, str]]
    files: Sequence[tuple[str, Sendable]]

    def encoded(self) -> tuple[str, bytes]:
        """Content type and body."""
        boundary = uuid.uuid4().hex
        body = io.BytesIO()
        for name, value in self.fields:
            body.write(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode())
        for name, file in self.files:
            kind, content = _bytes(file)
            head = f'Content-Disposition: form-data; name="{name}"; filename="{name}"\r\nContent-Type: {kind}\r\n\r\n'
            body.write(f"--{boundary}\r\n{head}".encode() + content + b"\r\n")
        body.write(f"--{boundary}--\r\n".encode())
        return f"multipart/form-data; boundary={boundary}", body.getvalue()


def _marks(box: Any, points: Any, scribble: Any) -> str:
    """The text of marks for one object; raises `InvalidSupport` unless exactly one of them is given."""
    return json.dumps(Mark.of(box=box, points=points, scribble=scribble).as_json())


def _bytes(file: Sendable) -> tuple[str, bytes]:
    """Content type and content of an image or file; raises `InvalidImage`."""
    if isinstance(file, bytes):
        return "application/octet-stream", file
    if isinstance(file, (str, os.PathLike)):
        try:
            return mimetypes.guess_type(os.fspath(file))[0] or "application/octet-stream", Path(file).read_bytes()
        except OSError as error:
            raise InvalidImage(f"{os.fspath(file)} cannot be read ({error.strerror}): check the path") from error
    image = _picture(file) if isinstance(file, np.ndarray) else file
    if not isinstance(image, Image.Image):
        raise InvalidImage(f"a {type(file).__name__} is no image: give a path, bytes, a Pillow image or an array")
    buffer = io.BytesIO()
    try:
        image = decoding.upright(image, decoding.orientation(image))  # what is saved says nothing of it
        image.save(buffer, "PNG")
    except (OSError, ValueError) as error:
        raise InvalidImage(f"the image cannot be sent ({error}): save it as PNG and give the path") from error
    return "image/png", buffer.getvalue()


def _picture(values: NDArray[Any]) -> Image.Image:
    said = f"an array of {values.dtype} {values.shape} is no image or mask: give uint8 (H, W[, 3]), or bool (H, W)"
    if np.issubdtype(values.dtype, np.floating):
        raise InvalidImage(said)
    try:
        return Image.fromarray(values.astype(np.uint8) * 255 if values.dtype == np.bool_ else values)
    except (TypeError, ValueError) as error:
        raise InvalidImage(said) from error


def _listed(value: Sendable | Sequence[Sendable]) -> list[Sendable]:
    return list(value) if isinstance(value, (list, tuple)) else [value]  # type: ignore[list-item]


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, LookupError, TypeError, OSError):
        return f"the server answers {error.code} {error.reason}"


def _pause(retry_after: str | None) -> float:
    """Seconds to wait before coming again, at most ten."""
    try:
        return min(10.0, max(0.1, float(retry_after or 1)))
    except ValueError:
        return 1.0
