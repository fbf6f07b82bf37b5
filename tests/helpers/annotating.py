"""Labelling a folder of images over HTTP, as the annotation page does."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from fewseg.inference.segmenter import Segmenter
from fewseg.server import api_errors
from fewseg.server.engine.engine import Engine
from fewseg.server.page.routes import router
from fewseg.server.project.project import Project
from helpers.colour_method import ColourMethod, blob

API = "/api/v1"


def write_images(folder: Path, names: str = "rbrbr") -> dict[str, np.ndarray]:
    """`0.png`, `1.png` ... with a red, green or blue disc by the letters; name to mask (H, W) of it."""
    colours = {"r": "red", "g": "green", "b": "blue"}
    masks = {}
    folder.mkdir(exist_ok=True)
    for i, letter in enumerate(names):
        image, mask = blob(colours[letter], place=0.3 + 0.4 * i / max(1, len(names)))
        image.save(folder / f"{i}.png")
        masks[f"{i}.png"] = mask > 0
    return masks


def png(mask: np.ndarray) -> bytes:
    encoded = io.BytesIO()
    Image.fromarray((mask > 0).astype(np.uint8) * 255).save(encoded, "PNG")
    return encoded.getvalue()


class Page:
    """What the page asks for."""

    def __init__(self, client: Any, engine: Engine | None = None) -> None:
        self.client, self.engine = client, engine

    def ask(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        """The JSON value, or the bytes of anything else; the status must be as expected."""
        answer = self.client.request(method, API + path, **options)
        assert answer.status_code == status, (answer.status_code, answer.text[:300])
        if answer.content and "json" in answer.headers.get("content-type", ""):
            value = answer.json()
            if status >= 400:
                assert set(value) == {"error"}
                assert "\n" not in value["error"]
                assert "Traceback" not in value["error"]
            return value
        return answer.content

    def project(self) -> Any:
        return self.ask("GET", "/project")

    def images(self) -> dict[str, Any]:
        return {image["name"]: image for image in self.project()["pictures"]}

    def id(self, name: str) -> str:
        return str(self.images()[name]["id"])

    def add_label(self, name: str) -> int:
        return int(self.ask("POST", "/labels", 201, json={"name": name})["id"])

    def paint(self, name: str, label: int, mask: np.ndarray, status: int = 200) -> Any:
        return self.ask("PUT", f"/pictures/{self.id(name)}/annotations/{label}", status, content=png(mask))

    def mask(self, name: str, label: int, **query: int) -> np.ndarray:
        image = self.images()[name]
        query = {"r": image["masks"][str(label)], **query}
        content = self.ask("GET", f"/pictures/{image['id']}/masks/{label}", params=query)
        return np.asarray(Image.open(io.BytesIO(content)))

    def wait(self, done: Callable[[Any], bool] | None = None, seconds: float = 60) -> Any:
        """The project when nothing is left to do, or when `done` says so."""
        end = time.monotonic() + seconds
        while True:
            project = self.project()
            if done(project) if done else all(p["state"] not in ("waiting", "working") for p in project["pictures"]):
                return project
            assert time.monotonic() < end, project
            time.sleep(0.01)


def colour_segmenter(**options: Any) -> Segmenter:
    return Segmenter(ColourMethod(**options), device="cpu")


def make_app(engine: Engine) -> FastAPI:
    app = FastAPI()
    api_errors.install(app)
    app.include_router(router(engine), prefix=API)
    return app


@contextmanager
def serving(folder: Path, segmenter: Segmenter | None = None, *, start: bool = True, **options: Any) -> Iterator[Page]:
    """A page over a folder; `start=False` leaves the engine to be started by hand."""
    engine = Engine(Project(folder), segmenter or colour_segmenter(), **{"rescan_every": 0.05, **options})
    if start:
        engine.start()
    try:
        with TestClient(make_app(engine)) as client:
            yield Page(client, engine)
    finally:
        engine.close()
