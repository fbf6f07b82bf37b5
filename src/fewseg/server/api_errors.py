"""Errors of the API: `{"error": "one line"}` with a fitting status, never a traceback."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from fewseg.core.errors import FewsegError, OutputError, one_line

log = logging.getLogger(__name__)

_PROGRAMS: Final = ("/api/", "/label-studio/")
_DISK: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
INTERNAL: Final = "the server failed on this request: it is noted in the server's log"


class ApiError(HTTPException):
    """A refused request: an HTTP status, and one line that says what to do."""

    def __init__(self, status: int, error: str, *, retry_after: float | None = None) -> None:
        headers = None if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}
        super().__init__(status, " ".join(error.split()), headers)


class ErrorBody(BaseModel):
    """The reason for refusing a request."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"error": "no session 'k3f': create one first"}]})
    error: str = Field(description="One line: what was received, what was expected, what to do.")


_MEANINGS: Final[Mapping[int, str]] = {
    400: "The request cannot be read.",
    401: "The token is missing or wrong.",
    403: "Refused: the request comes from another site, or was sent to a name this server does not go by.",
    404: "There is no such thing.",
    406: "The answer does not come in that format.",
    408: "The request took too long to arrive.",
    409: "It is there already, or not yet possible.",
    411: "The length of the request is missing.",
    413: "The request, image or session is too large.",
    415: "The request has another content type than expected.",
    422: "A value, image or mask cannot be used.",
    429: "As many as the server keeps are there already; `Retry-After` says when to come again.",
    500: "The server failed; its log says more.",
    503: "The server is busy; `Retry-After` says when to come again.",
}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route for OpenAPI: the given statuses and those that every route can return."""
    every = sorted({400, 401, 403, 408, 413, 415, 422, 503, *statuses})
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in every}


def error_response(status: int, error: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The response to a refused request."""
    return JSONResponse({"error": " ".join(error.split())}, status, dict(headers or {}))


def install(app: FastAPI) -> None:
    """Add the exception handlers to `app`."""
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(FewsegError, _fewseg_error)
    app.add_exception_handler(OSError, _os_error)
    app.add_exception_handler(RecursionError, _nested_too_deeply)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status, text, headers, path = error.status_code, str(error.detail), error.headers, request.url.path
    methods = _methods_at(request.app, path) if status in (404, 405) else []
    if methods and request.method not in methods:  # routers know one route at a time
        status, headers = 405, {"Allow": ", ".join(methods)}
    elif status == 405 and (not headers or path.startswith(_PROGRAMS)):
        status, headers = 404, None
    if status == 405 or (status == 404 and not isinstance(error, ApiError)):
        text = "there is nothing" if status == 404 else f"{request.method} is not possible"
        text = f"{text} at {path[:200]}: see /api/v1/openapi.json"
    elif "exceeded maximum size of" in text:
        text = "a text in the form has more than 1 MB: send images and masks as files, with file names"
    return error_response(status, text, headers)


def _methods_at(app: FastAPI, path: str) -> list[str]:
    """The methods at a path: those of the route with the fewest parameters."""
    if not hasattr(app.state, "methods"):
        paths = sorted(app.openapi()["paths"].items(), key=lambda item: item[0].count("{"))
        app.state.methods = [(compile_path(template)[0], sorted(map(str.upper, on))) for template, on in paths]
    return next((methods for regex, methods in app.state.methods if regex.match(path)), [])


def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if errors and errors[0].get("type") == "json_invalid":
        return error_response(400, f"the JSON cannot be read: {errors[0].get('ctx', {}).get('error', 'it is cut off')}")
    return error_response(422, describe_invalid(errors))


def describe_invalid(errors: Sequence[Any]) -> str:
    """The first three validation errors of pydantic on one line."""
    lines = []
    for error in errors[:3]:
        place = ".".join(str(part) for part in error.get("loc", ()) if part not in ("body", "query", "path"))
        reason = str(error.get("msg", "cannot be used")).removeprefix("Value error, ")
        if "UploadFile" in reason:
            reason = "send a file, with a file name"
        elif isinstance(error.get("input"), UploadFile):
            reason = "send text, not a file"
        lines.append(f"{place[:100]}: {reason}" if place else reason)
    return "; ".join(lines)[:500] or "the request cannot be used"


def _fewseg_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, OutputError):  # the server's disk, not the request
        log.error("%s %s: %s", request.method, request.url.path, one_line(error))
        return _disk(error.__cause__ or error)
    return error_response(422, str(error))


def _os_error(request: Request, error: Exception) -> JSONResponse:
    """A full or read-only disk; other errors of the system are the server's own."""
    if not isinstance(error, OSError) or error.errno not in _DISK:
        raise error
    log.error("%s %s: %s", request.method, request.url.path, one_line(error))
    return _disk(error)


def _disk(error: BaseException) -> JSONResponse:
    """What clients are told: the reason without the server's paths."""
    reason = getattr(error, "strerror", None) or "see its log"
    return error_response(500, f"the server cannot write ({reason}): free space there or make it writable, then repeat")


def _nested_too_deeply(request: Request, error: Exception) -> JSONResponse:
    return error_response(400, "the JSON is nested too deeply: send it flatter")
