"""The whole server as one ASGI app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI

import fewseg
from fewseg.server import problems
from fewseg.server.guard import Guard
from fewseg.server.limits import Limits
from fewseg.server.model import SegmenterFactory, ServedModel
from fewseg.server.work import Gate

API = "/api/v1"


def create_app(
    segmenter_factory: SegmenterFactory,
    *,
    folder: Path | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    names: Sequence[str] = (),
) -> FastAPI:
    """The app.

    Args:
        segmenter_factory: makes untaught segmenters; called once by the API.
        folder: pictures to label on the page; without one there is only the API.
        token: what clients must bring; none is needed if not given.
        limits: how much clients get.
        names: host names that the server answers to beside `localhost` and IP addresses.
    """
    limits = limits or Limits()
    model = ServedModel(segmenter_factory())
    gate = Gate(limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        gate.close()

    app = FastAPI(
        title="fewseg",
        version=fewseg.__version__,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # those pages come from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.model, app.state.gate, app.state.limits = model, gate, limits
    problems.install(app)
    app.add_middleware(Guard, limits=limits, token=token, names=names)
    return app
