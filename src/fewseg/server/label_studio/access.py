"""Label Studio's access tokens: legacy ones, sent as they are, and personal ones, exchanged for short-lived ones."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import threading
from collections.abc import Callable
from typing import Any, Final

from fewseg.core.errors import InvalidImage

REFRESH: Final = "/api/token/refresh/"
"""Path below Label Studio's address that exchanges a personal access token."""
VARIABLE: Final = "LABEL_STUDIO_API_KEY"

Exchange = Callable[[bytes], bytes]
"""Posts JSON to `REFRESH` and returns the answer; raises `InvalidImage`."""


class AccessTokens:
    """The header for every token; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._access: dict[str, str] = {}

    def header(self, key: str | None, exchange: Exchange) -> str | None:
        """The value of `Authorization`; None for no token, or one that no header can hold."""
        if not key or not (key.isascii() and key.isprintable()):
            return None
        kind = _kind(key)
        if kind is None:
            return f"Token {key}"
        if kind == "access":
            return f"Bearer {key}"
        with self._lock:
            if key not in self._access:
                self._access[key] = _exchanged(key, exchange)
            return f"Bearer {self._access[key]}"

    def expired(self, key: str | None, header: str | None) -> bool:
        """Forget the short-lived token of a refused header; False where there is nothing to exchange anew."""
        with self._lock:
            known = self._access.get(key or "")
            if known is None or header != f"Bearer {known}":
                return known is not None
            del self._access[key or ""]
            return True


def _kind(key: str) -> str | None:
    """`refresh` or `access` for a personal token, which is a JSON Web Token; None for a legacy one."""
    parts = key.split(".")
    if len(parts) != 3:
        return None
    try:
        content = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return "access" if isinstance(content, dict) and content.get("token_type") == "access" else "refresh"


def _exchanged(key: str, exchange: Exchange) -> str:
    answer: Any = None
    content = exchange(json.dumps({"refresh": key}).encode())
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        answer = json.loads(content)["access"]
    if not isinstance(answer, str) or not (answer.isascii() and answer.isprintable()):
        raise InvalidImage(f"Label Studio gives no access token for {VARIABLE}: check --label-studio-url")
    return answer
