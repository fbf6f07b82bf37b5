"""Whatever the page's OpenAPI schema allows, and much that it does not, is answered as documented, never with a 5xx."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

from fewseg.server.engine.engine import Engine
from fewseg.server.project.project import Project
from helpers.annotating import colour_segmenter, make_app, write_images

schemathesis: Any = pytest.importorskip("schemathesis", reason="needs schemathesis: pip install 'fewseg[dev]'")

from helpers.documented import assert_documented  # noqa: E402 - needs schemathesis

FOLDER = tempfile.TemporaryDirectory(prefix="fewseg-fuzz-")
MASKS = write_images(Path(FOLDER.name), "rrb")
ENGINE = Engine(Project(FOLDER.name), colour_segmenter())
PICTURE = next(iter(ENGINE.project.images))
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", make_app(ENGINE)).exclude(path_regex="/events$")  # never ends


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    ENGINE.start()
    yield
    ENGINE.close()
    FOLDER.cleanup()


@SCHEMA.parametrize()
@settings(
    max_examples=3,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_request_is_answered_otherwise_than_documented(case: Any) -> None:
    project = ENGINE.project
    if not project.state.labels:  # it deletes them, too
        project.annotate(PICTURE, project.add_label("disc").id, MASKS["0.png"])
    parameters = case.path_parameters or {}
    if case.method != "DELETE":  # reach behind the 404
        parameters |= {
            k: v for k, v in (("picture", PICTURE), ("label", project.state.labels[0].id)) if k in parameters
        }
    assert_documented(case)
