"""Whether a server answers as its OpenAPI schema says."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import checks


def assert_documented(case: Any) -> None:
    """Send a generated request; its answer is of a documented status, kind and shape, errors are one `error`."""
    answer = case.call()
    assert answer.status_code < 500, answer.text
    case.validate_response(
        answer,
        checks=[
            checks.not_a_server_error,
            schemathesis.specs.openapi.checks.status_code_conformance,
            schemathesis.specs.openapi.checks.content_type_conformance,
            schemathesis.specs.openapi.checks.response_schema_conformance,
        ],
    )
    if answer.status_code >= 400:
        assert list(answer.json()) == ["error"]
