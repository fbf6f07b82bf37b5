"""Checks of every request before its route: host name, origin and token, in this order; then its body arrives.

- **Names.** A page on the internet can give its own name our address ("DNS rebinding") and then talk to a server on
  localhost as if it were its own. So only IP addresses, `localhost` and allowed names are accepted.
- **Origins.** Browsers send the origin of a request (`Origin`, `Sec-Fetch-Site`); other sites, and other ports of the
  same host, are refused. Programs send neither header and pass.
- **Token.** `Authorization: Bearer T`, `Authorization: Basic` with the password T (Label Studio), or the cookie that
  `GET /?token=T` sets; compared in constant time. Only `/health` is open (also below `/label-studio`).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fewseg.server.api_errors import INTERNAL, ApiError, error_response
from fewseg.server.bodies import Bodies
from fewseg.server.limits import Limits

log = logging.getLogger(__name__)

COOKIE: Final = "fewseg_token"
_OPEN: Final = frozenset({"/health", "/label-studio/health"})
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # the first address holds the token
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
}


class Guard:
    """The ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, *, limits: Limits, token: str | None = None, names: Sequence[str] = ()) -> None:
        self.app, self.token, self.bodies = app, token, Bodies(limits)
        self.names = {"localhost", *(name.lower().rstrip(".") for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            else:  # no WebSockets: 403
                await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if not await self._authorise(scope, receive, sending):
                await self.bodies.pass_on(self.app, scope, receive, sending)
        except ApiError as error:
            if not started:
                await error_response(error.status_code, error.detail, error.headers)(scope, receive, sending)
        except Exception:  # the client gets one line, the log the traceback
            log.exception("%s %s failed", scope["method"], scope["path"])
            if not started:
                await error_response(500, INTERNAL)(scope, receive, sending)

    async def _authorise(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Raise `ApiError` unless the request is allowed; True where the response has been sent here."""
        headers = Headers(scope=scope)
        self._check_name(headers.get("host", ""))
        _check_site(headers, scope)
        if self.token is None or scope["path"] in _OPEN:
            return False
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token") if scope["path"] == "/" else None
        if token:
            self._check_token(token)
            answer = RedirectResponse("/", 303)
            answer.set_cookie(_cookie(scope), self.token, httponly=True, samesite="strict", path="/")
            await answer(scope, receive, send)
            return True
        self._check_token(_offered(headers, _cookie(scope)))
        return False

    def _check_name(self, host: str) -> None:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            name = ""
        if name in self.names:
            return
        try:
            ipaddress.ip_address(name.split("%")[0])
        except ValueError:
            raise ApiError(
                403, f"this server does not answer to the name {name[:100]!r}: allow it with --allow-host"
            ) from None

    def _check_token(self, offered: Iterable[str]) -> None:
        expected = (self.token or "").encode()
        given = list(offered)
        if not any(hmac.compare_digest(value.encode("utf-8", "surrogateescape"), expected) for value in given):
            what = "the token is wrong" if given else "a token is needed"
            remedy = "open the address that fewseg serve printed, or send Authorization: Bearer TOKEN"
            raise ApiError(401, f"{what}: {remedy}")


def _cookie(scope: Scope) -> str:
    """The cookie's name, which contains the port: browsers send cookies to every port of a host."""
    server = scope.get("server")
    return f"{COOKIE}_{server[1]}" if server and server[1] else COOKIE


def _offered(headers: Headers, cookie: str) -> list[str]:
    """The tokens in a request's headers."""
    tokens = []
    kind, _, value = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        tokens.append(value.strip())
    elif kind.lower() == "basic":
        try:
            tokens.append(base64.b64decode(value, validate=True).decode().partition(":")[2])
        except (binascii.Error, UnicodeDecodeError):
            tokens.append("")
    if given := cookie_parser(headers.get("cookie", "")).get(cookie):
        tokens.append(given)
    return tokens


def _check_site(headers: Headers, scope: Scope) -> None:
    origin, host = headers.get("origin"), headers.get("host", "")
    foreign = origin is not None and _authority(origin) != _authority(f"{scope.get('scheme', 'http')}://{host}")
    navigation = headers.get("sec-fetch-mode") == "navigate" and scope["method"] == "GET"
    fetched = headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not navigation
    if foreign or fetched:
        raise ApiError(403, "the request comes from another site: open fewseg's own page, or ask from a program")


def _authority(origin: str) -> tuple[str | None, int | None]:
    """Host and port of an origin; the scheme's default port where none is given."""
    try:
        parts = urlsplit(origin)
        return parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None, None
