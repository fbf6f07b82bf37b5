"""The whole server as one ASGI app."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import math
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Final

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from fewseg.core.version import __version__
from fewseg.inference.segmenter import Segmenter
from fewseg.server import api_errors
from fewseg.server.guard import Guard
from fewseg.server.label_studio import routes as label_studio
from fewseg.server.label_studio.backend import LabelStudio
from fewseg.server.label_studio.task_images import ImageSources
from fewseg.server.limits import Limits
from fewseg.server.model import ServedModel
from fewseg.server.services import Services
from fewseg.server.sessions import routes as session_routes
from fewseg.server.sessions.schemas import Info
from fewseg.server.sessions.sessions import SessionStore

API: Final = "/api/v1"
_ABOUT: Final = """Teach labels with a few images and masks, and segment them in others.

Create a session, teach it, segment with it. Errors are `{"error": "one line"}`. Images may be PNG, JPEG, WEBP, BMP,
TIFF, GIF, PPM, JPEG 2000 or AVIF, masks PNG, TIFF or BMP; images are turned upright by their EXIF orientation."""


def create_app(
    segmenter: Segmenter,
    *,
    folder: Path | None = None,
    token: str | None = None,
    limits: Limits | None = None,
    names: Sequence[str] = (),
    sources: ImageSources | None = None,
    label_studio_folder: Path | None = None,
    adapt: bool = True,
) -> FastAPI:
    """The app.

    Args:
        segmenter: its model is served, shared by all sessions; its own labels are not.
        folder: images to label on the page; without one there is only the API.
        token: required from clients; if not given, none is needed.
        limits: on the resources that clients can use.
        names: host names that the server answers to beside `localhost` and IP addresses.
        sources: where images of Label Studio's tasks may be fetched from; only `data:` addresses if not given.
        label_studio_folder: where to save the examples from Label Studio; in memory only if not given.
        adapt: adapt labels of the page and of Label Studio that have enough examples; sessions of the API ask for it.
    """
    limits = limits or Limits()
    services, sessions = Services.of(ServedModel(segmenter), limits), SessionStore(limits)
    closing: list[Callable[[], None]] = [services.close]

    app = _bare_app(_lifespan(sessions, closing))
    app.state.sessions, app.state.end_streams = sessions, lambda: None
    api_errors.install(app)
    app.add_middleware(Guard, limits=limits, token=token, names=names)
    _add_info(app, services, folder)
    app.include_router(session_routes.router(services, sessions), prefix=API)
    studio = LabelStudio(services, sources or ImageSources(), label_studio_folder, adapt=adapt)
    closing.append(studio.close)
    app.include_router(label_studio.router(studio), prefix="/label-studio")
    if folder is not None:
        _add_project(app, folder, services.model.segmenter(), closing, adapt)
    return app


def _add_project(
    app: FastAPI, folder: Path, segmenter: Segmenter, closing: list[Callable[[], None]], adapt: bool
) -> None:
    """Add the folder's routes and the page; functions appended to `closing` stop their background work."""
    from fewseg.server.engine.adapter import REST_SECONDS
    from fewseg.server.engine.engine import Engine
    from fewseg.server.page.routes import router
    from fewseg.server.project.project import Project

    project = Project(folder)
    engine = Engine(project, segmenter, rest=REST_SECONDS if adapt else math.inf)
    engine.start()
    closing[:0] = [engine.close, project.close]
    app.state.end_streams = engine.events.close
    app.include_router(router(engine), prefix=API)
    static = resources.files("fewseg.server") / "static"
    app.mount("/", StaticFiles(directory=str(static), html=True), name="page")


def _bare_app(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    """An app without routes."""
    return FastAPI(
        title="fewseg",
        version=__version__,
        description=_ABOUT,
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # these pages load scripts from other sites
        redoc_url=None,
        lifespan=lifespan,
    )


def _lifespan(
    sessions: SessionStore, closing: Sequence[Callable[[], None]]
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Drops idle sessions while the app runs, and calls the functions of `closing` when it stops."""

    async def drop_idle() -> None:
        while True:
            await asyncio.sleep(30)
            sessions.drop_idle()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        cleaning = asyncio.create_task(drop_idle())
        try:
            yield
        finally:
            cleaning.cancel()
            for close in closing:
                close()

    return lifespan


def _add_info(app: FastAPI, services: Services, folder: Path | None) -> None:
    @app.get("/health", tags=["server"])
    async def health() -> dict[str, str]:
        """Whether the server is up; needs no token."""
        return {"status": "UP"}

    @app.get(f"{API}/info", tags=["server"], responses=api_errors.error_responses())
    async def info() -> Info:
        """The server's version, model and limits."""
        return Info(
            version=__version__,
            model=services.model.name,
            image_size=services.model.image_size,
            folder=folder.resolve().name if folder else None,
            project=hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16] if folder else None,
            limits=dataclasses.asdict(services.limits),
        )
