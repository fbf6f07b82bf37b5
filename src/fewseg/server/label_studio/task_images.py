"""Images of labelling tasks, fetched only from hosts that the operator has allowed.

A task gives the address of its image, which any annotator may have written, and a server that fetches every address can
be made to send requests inside its own network. So `data:` addresses are decoded, and others are fetched only from
hosts that `fewseg serve` was started with, every redirect included; files of this machine are never opened.
"""

from __future__ import annotations

import base64
import binascii
import http.client
import io
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final
from urllib.parse import unquote_to_bytes, urljoin, urlsplit

from fewseg.core.errors import InvalidImage, InvalidOption
from fewseg.server.label_studio.access import REFRESH, VARIABLE, AccessTokens
from fewseg.server.limits import Limits

_REDIRECTS: Final = 3
_CLOUD: Final = ("s3://", "s3s://", "gs://", "azure-blob://", "azure-spi://", "dbx://", "databricks://")
"""Beginnings of addresses that Label Studio resolves itself."""
_PORTS: Final = {"http": 80, "https": 443}
_SECONDS: Final = 20.0


@dataclass(frozen=True)
class ImageSources:
    """The hosts that images of tasks may be fetched from."""

    home: str | None = None
    """Label Studio's own address; relative addresses of uploads refer to it."""
    hosts: Sequence[str] = ()
    """Further hosts, `name` or `name:port`; without a port those of http and https."""
    key: str | None = field(default=None, repr=False)
    """Label Studio's access token, legacy or personal; sent to `home` only."""
    _tokens: AccessTokens = field(default_factory=AccessTokens, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise `InvalidOption` for a home that is no address."""
        if self.home is not None and (_host(self.home) is None or not self.home.startswith(("http://", "https://"))):
            raise InvalidOption(f"Label Studio's address {self.home!r}: write it as http://localhost:8080")

    def fetch(self, address: str, limits: Limits, key: str | None = None, task: object = None) -> IO[bytes]:
        """The image's bytes; raises `InvalidImage`.

        `key` is used where the operator gave none. Label Studio opens addresses in its cloud storages for the `task` of
        that id.
        """
        if address.startswith("data:"):
            return io.BytesIO(_decoded(address, limits))
        address = self._in_studio(address, task)
        for _ in range(1 + _REDIRECTS):
            answer = self._request(address, limits, self.key or key)
            if isinstance(answer, bytes):
                return io.BytesIO(answer)
            address = urljoin(address, answer)
        raise InvalidImage(f"{_short(address)}: more than {_REDIRECTS} redirects; give the image's own address")

    def _in_studio(self, address: str, task: object) -> str:
        """The address in Label Studio of an upload or an object in a cloud storage; others as they are."""
        upload, cloud = address.startswith("/") and not address.startswith("//"), address.startswith(_CLOUD)
        if not upload and not cloud:
            return address
        where = "Label Studio" if upload else "a cloud storage, which Label Studio opens"
        if self.home is None:
            remedy = "start fewseg serve with --label-studio-url http://... and set LABEL_STUDIO_API_KEY"
            raise InvalidImage(f"{_short(address)} lies in {where}: {remedy}")
        if upload:
            return urljoin(self.home, address)
        if not isinstance(task, int | str) or not str(task).isdecimal():
            raise InvalidImage(f"{_short(address)} lies in {where} for a task with its number: send the task's id")
        uri = base64.urlsafe_b64encode(address.encode("utf-8", "replace")).decode()
        return f"{self.home.rstrip('/')}/tasks/{task}/resolve/?fileuri={uri}"

    def _request(self, address: str, limits: Limits, key: str | None) -> bytes | str:
        """The image's bytes, or the address it redirects to."""
        self._require_allowed(address)
        # Label Studio 1.23 answers 406 to requests that accept images alone: its view renders only JSON.
        request = urllib.request.Request(address, headers={"User-Agent": "fewseg", "Accept": "image/*, */*;q=0.5"})
        if self.home is None or _host(address) != _host(self.home):
            return _open(request, limits)
        header = None
        for attempt in range(2):
            header = self._tokens.header(key, lambda content: self._exchange(content, limits))
            if header is not None:
                request.add_header("Authorization", header)
            try:
                return _open(request, limits)
            except _Refused as error:
                if error.code != 401 or attempt or not self._tokens.expired(key, header):
                    raise InvalidImage(f"{error}{_hint(error.code, header)}") from None
        raise AssertionError("the second attempt returns or raises")

    def _exchange(self, content: bytes, limits: Limits) -> bytes:
        """Label Studio's answer to a personal access token."""
        address = f"{(self.home or '').rstrip('/')}{REFRESH}"
        request = urllib.request.Request(address, content, {"User-Agent": "fewseg", "Content-Type": "application/json"})
        try:
            answer = _open(request, limits)
        except _Refused as error:
            remedy = "make a new personal access token in Account & Settings"
            raise InvalidImage(f"Label Studio refuses the token of {VARIABLE} ({error.code}): {remedy}") from None
        if isinstance(answer, str):
            raise InvalidImage(f"{_short(address)} redirects to {_short(answer)}: give that with --label-studio-url")
        return answer

    def _require_allowed(self, address: str) -> None:
        host = _host(address)
        allowed = {_host(self.home)} if self.home else set()
        for name in self.hosts:
            allowed |= {_host(f"{scheme}://{name}") for scheme in _PORTS}
        if host is None or host not in allowed:
            if host is None:
                kinds = "an http or https address without a user's name, data:, or an upload"
                raise InvalidImage(f"images are not fetched from {_short(address)}: give {kinds}")
            raise InvalidImage(f"images are not fetched from {host[0]}:{host[1]}: allow it with --image-hosts")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: `fetch` does, after checking each."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


_OPENER: Final = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.HTTPHandler,
    urllib.request.HTTPSHandler,
    _NoRedirect,
    urllib.request.HTTPErrorProcessor,
    urllib.request.HTTPDefaultErrorHandler,
):
    _OPENER.add_handler(_handler())


class _Refused(InvalidImage):
    """The server answers with an HTTP error."""

    def __init__(self, address: str, code: int) -> None:
        super().__init__(f"{_short(address)} answers {code}")
        self.code = code


def _open(request: urllib.request.Request, limits: Limits) -> bytes | str:
    """The body of the answer, or the address it redirects to; raises `InvalidImage`, its kind `_Refused` for errors."""
    address = request.full_url
    try:
        with _OPENER.open(request, timeout=min(_SECONDS, limits.seconds)) as answer:
            content: bytes = answer.read(limits.request_bytes + 1)
    except urllib.error.HTTPError as error:
        if error.code in (301, 302, 303, 307, 308) and error.headers.get("Location"):
            return str(error.headers["Location"])
        raise _Refused(address, error.code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise InvalidImage(f"{_short(address)} cannot be fetched ({reason}): check that it is up") from None
    if len(content) > limits.request_bytes:
        raise InvalidImage(f"{_short(address)} has more than {limits.request_mb} MB: make it smaller")
    return content


def _hint(code: int, header: str | None) -> str:
    """What to do where Label Studio refuses a request."""
    if code not in (401, 403):
        return ""
    if header is None:
        return f"; set {VARIABLE}"
    legacy = ", and whether legacy tokens are allowed" if header.startswith("Token ") else ""
    return f"; check that the token of {VARIABLE} is this Label Studio's and its user may see the task{legacy}"


def _host(address: str) -> tuple[str, int] | None:
    """Name and port of an http(s) address."""
    try:
        parts = urlsplit(address)
        if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
            return None
        return parts.hostname.lower().rstrip("."), parts.port or _PORTS[parts.scheme]
    except ValueError:
        return None


def _decoded(address: str, limits: Limits) -> bytes:
    head, comma, content = address.partition(",")
    if not comma:
        raise InvalidImage("the data: address has no content: write data:image/png;base64,...")
    try:
        plain = base64.b64decode(content, validate=True) if head.endswith(";base64") else unquote_to_bytes(content)
    except (binascii.Error, ValueError):
        raise InvalidImage("the data: address is not base64: encode the image again") from None
    if len(plain) > limits.request_bytes:
        raise InvalidImage(f"the data: address holds more than {limits.request_mb} MB: make the image smaller")
    return plain


def _short(address: str) -> str:
    """The address for a message, without its query, which may be secret."""
    return address.split("?")[0][:200]
