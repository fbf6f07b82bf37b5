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
from fewseg.server.limits import Limits

_REDIRECTS: Final = 3
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
    """Label Studio's access token; sent to `home` only."""

    def __post_init__(self) -> None:
        """Raise `InvalidOption` for a home that is no address."""
        if self.home is not None and (_host(self.home) is None or not self.home.startswith(("http://", "https://"))):
            raise InvalidOption(f"Label Studio's address {self.home!r}: write it as http://localhost:8080")

    def fetch(self, address: str, limits: Limits, key: str | None = None) -> IO[bytes]:
        """The image's bytes; raises `InvalidImage`. `key` is used where the operator gave none."""
        if address.startswith("data:"):
            return io.BytesIO(_decoded(address, limits))
        if address.startswith("/") and not address.startswith("//"):
            if self.home is None:
                raise InvalidImage(
                    f"{_short(address)} lies in Label Studio: start fewseg serve with --label-studio-url http://..."
                )
            address = urljoin(self.home, address)
        for _ in range(1 + _REDIRECTS):
            answer = self._request(address, limits, self.key or key)
            if isinstance(answer, bytes):
                return io.BytesIO(answer)
            address = urljoin(address, answer)
        raise InvalidImage(f"{_short(address)}: more than {_REDIRECTS} redirects; give the image's own address")

    def _request(self, address: str, limits: Limits, key: str | None) -> bytes | str:
        """The image's bytes, or the address it redirects to."""
        self._require_allowed(address)
        at_home = self.home is not None and _host(address) == _host(self.home)
        # Label Studio 1.23 answers 406 to requests that accept images alone: its view renders only JSON.
        request = urllib.request.Request(address, headers={"User-Agent": "fewseg", "Accept": "image/*, */*;q=0.5"})
        if at_home and key and key.isascii() and key.isprintable():
            request.add_header("Authorization", f"Token {key}")
        try:
            with _OPENER.open(request, timeout=min(_SECONDS, limits.seconds)) as answer:
                content: bytes = answer.read(limits.request_bytes + 1)
        except urllib.error.HTTPError as error:
            if error.code in (301, 302, 303, 307, 308) and error.headers.get("Location"):
                return str(error.headers["Location"])
            hint = "; set LABEL_STUDIO_API_KEY" if error.code in (401, 403) and at_home else ""
            raise InvalidImage(f"{_short(address)} answers {error.code}{hint}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise InvalidImage(f"{_short(address)} cannot be fetched ({reason}): check that it is up") from None
        if len(content) > limits.request_bytes:
            raise InvalidImage(f"{_short(address)} has more than {limits.request_mb} MB: make it smaller")
        return content

    def _require_allowed(self, address: str) -> None:
        host = _host(address)
        allowed = {_host(self.home)} if self.home else set()
        for name in self.hosts:
            allowed |= {_host(f"{scheme}://{name}") for scheme in _PORTS}
        if host is None or host not in allowed:
            where = f"{host[0]}:{host[1]}" if host else _short(address)
            raise InvalidImage(f"images are not fetched from {where}: allow it with --image-hosts")


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
