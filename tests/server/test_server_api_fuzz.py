"""Whatever the OpenAPI schema allows, and much that it does not, is answered as documented and never with a 5xx."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from fewseg.server.limits import Limits
from helpers.colour_method import blob
from helpers.server import SESSIONS, app, client, pair

schemathesis: Any = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install 'fewseg[dev]'")

from helpers.documented import assert_documented  # noqa: E402 - needs schemathesis

SERVED = app(limits=Limits(sessions=100_000, megapixels=1), names=["testserver"])
SCHEMA = schemathesis.openapi.from_asgi("/api/v1/openapi.json", SERVED)
EXAMPLES = 8
"""Requests for each route."""


@SCHEMA.parametrize()
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_is_answered_otherwise_than_documented(case: Any) -> None:
    if "session" in (case.path_parameters or {}) and SERVED.state.sessions.all():
        case.path_parameters["session"] = SERVED.state.sessions.all()[0].id  # reaches behind the 404
    assert_documented(case)


def test_every_route_documents_its_errors_and_shows_examples() -> None:
    schema = SERVED.openapi()
    for path, routes in schema["paths"].items():
        for method, route in routes.items():
            assert route.get("description") or route.get("summary"), path
            if path.startswith(SESSIONS):
                for status in ("400", "401", "403", "413", "422", "503"):
                    content = route["responses"][status]["content"]["application/json"]
                    assert content["schema"]["$ref"].endswith("/ErrorBody"), (method, path, status)
    shown = ("ErrorBody", "PredictionBody", "LabelPredictionBody", "Info", "SessionInfo", "Rle", "TaughtLabel")
    for name, model in schema["components"]["schemas"].items():
        if not name.startswith("Body_") and name in shown:
            assert model["examples"], name


def test_examples_of_the_schema_have_the_form_of_real_answers() -> None:
    with client() as http:
        path = f"{SESSIONS}/{http.post(SESSIONS).json()['id']}"
        marked = {"label": "red", "marks": '{"points": [[48, 32, 1]]}'}
        taught = http.post(f"{path}/shots", data=marked, files=pair(*blob("red"))[:1]).json()
        found = http.post(f"{path}/segment", files={"image": pair(*blob("red"))[0][1]}).json()
        models = http.get("/api/v1/openapi.json").json()["components"]["schemas"]
        assert set(models["PredictionBody"]["examples"][0]) == set(found)
        assert set(models["LabelPredictionBody"]["examples"][0]) == set(found["labels"][0])
        assert set(models["SessionInfo"]["examples"][0]) == set(http.get(path).json())
        assert set(models["TaughtLabel"]["examples"][0]) == set(taught)
        assert set(models["Rle"]["examples"][0]) == set(taught["outlines"][0])
        assert set(models["Info"]["examples"][0]) == set(http.get("/api/v1/info").json())
