"""Errors of the API: `{"error": "one line"}` with a fitting status, never a traceback."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from fewseg.core.errors import FewsegError, OutputError, one_line

log = logging.getLogger(__name__)

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
    app.add_exception_handler(RecursionError, _nested_too_deeply)


def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    text = str(error.detail)
    if error.status_code == 404 and text == "Not Found":
        text = f"there is nothing at {request.url.path[:200]}: see /api/v1/openapi.json"
    elif error.status_code == 405:
        text = f"{request.method} is not possible at {request.url.path[:200]}: see /api/v1/openapi.json"
    return error_response(error.status_code, text, error.headers)


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
        return error_response(500, INTERNAL)
    return error_response(422, str(error))


def _nested_too_deeply(request: Request, error: Exception) -> JSONResponse:
    return error_response(400, "the JSON is nested too deeply: send it flatter")
