"""A client of `fewseg serve`, over the standard library.

Examples:
    >>> with fewseg.client.Client("http://127.0.0.1:8000").session("pets") as session:  # doctest: +SKIP
    ...     session.teach("cat", "tom.jpg", "tom.png")
    ...     prediction = session.segment("street.jpg")
"""

from __future__ import annotations

import http.client
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote, urlencode

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from fewseg.core.errors import FewsegError, one_line
from fewseg.core.files import write_bytes
from fewseg.core.objects import Kind
from fewseg.images.form_data import Form, Sendable, encode_form
from fewseg.images.prompts import Prompt

log = logging.getLogger(__name__)

_ADAPTING: Final = 900.0
"""Seconds to wait until a label is adapted."""


class ServerError(FewsegError):
    """The server refused a request, or cannot be reached."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status; 0 where there was no answer."""


@dataclass(frozen=True)
class RemotePrediction:
    """The masks of one image from the server, at the image's size after EXIF rotation."""

    masks: dict[str, NDArray[np.bool_]]
    """Label to mask (H, W)."""
    scores: dict[str, float]
    """Label to the probability that it is present in the image."""
    present: dict[str, bool]
    """Label to whether its score reaches the threshold."""
    model: str
    """Changes with the model's weights."""
    objects: dict[str, list[RemoteObject]] = field(default_factory=dict)
    """Label to its single objects, where they were asked for; labels of stuff are left out."""


@dataclass(frozen=True)
class RemoteObject:
    """One single object, as `fewseg.core.objects.DetectedObject` has it."""

    box: tuple[int, int, int, int]
    """Left, top, right, bottom; the last two lie just beyond its pixels."""
    area: int
    centroid: tuple[float, float]
    score: float
    rle: dict[str, Any]
    """Its mask as COCO's compressed run lengths."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Its mask (H, W) in the image."""
        mask: NDArray[np.uint8] = coco.decode(self.rle)
        return mask.astype(np.bool_)


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
        """`timeout`: seconds for each response; `retries`: attempts after the server answered that it is busy."""
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
        """A new session with the examples of a file from `Session.save` or `fewseg.Segmenter.save`."""
        fields = [("name", name)] if name else []
        return Session(self, self._json("POST", "/sessions/load", form=encode_form(fields, [("file", path)]))["id"])

    def _json(
        self, method: str, path: str, content: Any = None, form: Form | None = None, timeout: float | None = None
    ) -> Any:
        answer = self.request(method, path, content, form, timeout)
        try:
            return json.loads(answer or b"null")
        except ValueError:
            raise ServerError(0, f"{self._address} does not answer as fewseg serve does: check the address") from None

    def request(
        self, method: str, path: str, content: Any = None, form: Form | None = None, timeout: float | None = None
    ) -> bytes:
        """The response to a request below `/api/v1`, with JSON or a form; raises `ServerError`.

        `timeout`: seconds, in place of the client's.
        """
        headers, body = {"Accept": "application/json"}, None
        if form is not None:
            headers["Content-Type"], body = form
        elif content is not None:
            headers["Content-Type"], body = "application/json", json.dumps(content).encode()
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        for attempt in range(self._retries + 1):
            request = urllib.request.Request(f"{self._address}/api/v1{path}", body, headers, method=method)
            try:
                with urllib.request.urlopen(request, timeout=timeout or self._timeout) as answer:
                    if note := answer.headers.get("X-Fewseg-Note"):
                        log.warning("%s", note)
                    return bytes(answer.read())
            except urllib.error.HTTPError as error:
                if error.code != 503 or attempt == self._retries:
                    raise ServerError(error.code, _error_line(error)) from None
                time.sleep(_retry_delay(error.headers.get("Retry-After")))
            except ValueError as error:
                raise ServerError(0, f"the address or the token cannot be sent ({one_line(error)})") from error
            except (OSError, http.client.HTTPException) as error:  # the latter: a truncated response, or no HTTP
                reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
                raise ServerError(
                    0, f"{self._address} cannot be reached ({reason}): is fewseg serve running?"
                ) from error
        raise AssertionError("unreachable")


class Session:
    """A set of labels on a server; as a context manager it is deleted at the end."""

    def __init__(self, client: Client, identifier: str) -> None:
        self._client, self.id = client, identifier
        self._path = f"/sessions/{quote(identifier, safe='')}"

    def teach(
        self,
        label: str,
        image: Sendable | Sequence[Sendable],
        mask: Sendable | Sequence[Sendable] | None = None,
        *,
        value: int | tuple[int, int, int] | Literal["instances"] | None = None,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        scribble: Sequence[Any] | None = None,
    ) -> list[str]:
        """Add examples; returns the ids of all that the label has.

        Args:
            label: any name.
            image: an image, or several.
            mask: the label's mask at the image's size; as many as images.
            value: which index or colour of the mask is the label; "instances" for an instance map.
            box: instead of a mask, for one image, as in `outline`; so are `points` and `scribble`.

        Raises:
            InvalidImage, InvalidSupport, ServerError: something cannot be sent, or is refused; nothing is added then.
        """
        files = [("image", file) for file in _listed(image)]
        files += [("mask", file) for file in ([] if mask is None else _listed(mask))]
        fields = [("label", label)]
        if any(given is not None for given in (box, points, scribble)):
            fields.append(("marks", _prompt(box, points, scribble)))
        if value is not None:
            fields.append(("value", ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)))
        shots: list[str] = self._client._json("POST", f"{self._path}/shots", form=encode_form(fields, files))["shots"]
        return shots

    def outline(
        self,
        image: Sendable,
        *,
        box: Sequence[float] | None = None,
        points: Sequence[Sequence[float]] | None = None,
        scribble: Sequence[Any] | None = None,
        label: str | None = None,
    ) -> NDArray[np.bool_]:
        """The mask (H, W) that `teach` would make from a prompt. Nothing is saved.

        Args:
            image: an image.
            box: x0, y0, x1, y1 around the object, in pixels of the upright image.
            points: each x, y, and 1 where it is inside or 0 where it is outside.
            scribble: a line inside, as places x, y; or several lines.
            label: what the object is: examples that the label has help to find it.

        Raises:
            InvalidImage, InvalidSupport, ServerError: something cannot be sent, or is refused.
        """
        fields = [("marks", _prompt(box, points, scribble)), *([] if label is None else [("label", label)])]
        form = encode_form(fields, [("image", image)])
        mask: NDArray[np.uint8] = coco.decode(self._client._json("POST", f"{self._path}/outline", form=form))
        return mask.astype(np.bool_)

    @property
    def labels(self) -> dict[str, list[str]]:
        """Label to the ids of its examples."""
        return {label["name"]: label["shots"] for label in self._client._json("GET", f"{self._path}/labels")}

    def segment(self, image: Sendable, labels: Sequence[str] = (), *, objects: bool = False) -> RemotePrediction:
        """The prediction of all labels, or of `labels`, in an image; with `objects` the single ones, too."""
        chosen = [("label", label) for label in labels] + ([("objects", "true")] if objects else [])
        query = "?" + urlencode(chosen) if chosen else ""
        answer = self._client._json("POST", f"{self._path}/segment{query}", form=encode_form([], [("image", image)]))
        predicted = answer["labels"]
        return RemotePrediction(
            masks={label["name"]: coco.decode(label["rle"]).astype(np.bool_) for label in predicted},
            scores={label["name"]: label["score"] for label in predicted},
            present={label["name"]: label["present"] for label in predicted},
            model=answer["model"],
            objects={
                label["name"]: [_remote_object(one) for one in label["objects"]]
                for label in predicted
                if label.get("objects") is not None
            },
        )

    def adapt(self, label: str | None = None, *, seconds: float = 60, force: bool = False) -> dict[str, dict[str, Any]]:
        """Fit labels to their own examples where that helps, as `fewseg.Segmenter.adapt` does, on the server.

        Args:
            label: the one to adapt; all with two examples or more if not given.
            seconds: time to plan for, for each label, on two processor cores; at most 60.
            force: use what was fitted whatever left-out examples say.

        Returns what it brought, by label: `expected_iou`, `spread`, `text` and more, see the API's schema. Raises
        `ServerError` for an unknown label, or one that was loaded from a file, which holds no images.
        """
        labels = [name for name, shots in self.labels.items() if len(shots) > 1] if label is None else [label]
        reports = {}
        for name in labels:
            how = {"labels": [name], "seconds": seconds, "force": force}
            (reports[name],) = self._client._json("POST", f"{self._path}/adapt", how, timeout=_ADAPTING)
        return reports

    def set_kind(self, label: str, kind: Kind | None) -> None:
        """Say that a label is one of things, which are told apart, or of stuff; None: as its examples look."""
        self._client._json("POST", f"{self._path}/kind", {"label": label, "kind": kind})

    def forget(self, label: str, shot: str | None = None) -> None:
        """Remove a label, or one of its examples by id."""
        path = f"/labels/{quote(label, safe='')}" if shot is None else f"/shots/{quote(shot, safe='')}"
        self._client.request("DELETE", self._path + path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the encoded examples to a file for `Client.load` and `fewseg.Segmenter.load`."""
        write_bytes(path, self._client.request("GET", f"{self._path}/export"))

    def delete(self) -> None:
        """Delete the session."""
        self._client.request("DELETE", self._path)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.delete()
        except ServerError:
            if error is None:
                raise


def _remote_object(about: dict[str, Any]) -> RemoteObject:
    left, top, width, height = about["box"]
    x, y = about["centroid"]
    return RemoteObject((left, top, left + width, top + height), about["area"], (x, y), about["score"], about["rle"])


def _prompt(box: Any, points: Any, scribble: Any) -> str:
    """A prompt as JSON; raises `InvalidSupport` unless exactly one of them is given."""
    return json.dumps(Prompt.of(box=box, points=points, scribble=scribble).as_json())


def _listed(value: Sendable | Sequence[Sendable]) -> list[Sendable]:
    return list(value) if isinstance(value, (list, tuple)) else [value]  # type: ignore[list-item]


def _error_line(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(error.read())["error"])
    except (ValueError, LookupError, TypeError, OSError):
        return f"the server answers {error.code} {error.reason}"


def _retry_delay(retry_after: str | None) -> float:
    """Seconds to wait before another attempt, at most ten."""
    try:
        return min(10.0, max(0.1, float(retry_after or 1)))
    except ValueError:
        return 1.0
