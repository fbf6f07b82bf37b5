"""A server for tests: over the colour method, in this process or on a port of its own."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from fewseg.inference.segmenter import Segmenter
from fewseg.server.app import create_app
from fewseg.server.connections import server_config
from fewseg.server.limits import Limits
from helpers.colour_method import ColourMethod

SESSIONS = "/api/v1/sessions"


def app(**options: Any) -> FastAPI:
    """Over a method that needs no time."""
    return create_app(Segmenter(ColourMethod(), device="cpu"), **options)


def client(limits: Limits | None = None, **options: Any) -> TestClient:
    """Asks an app of its own, as from this machine."""
    return TestClient(app(limits=limits, **options), base_url="http://localhost")


def png(image: Image.Image | np.ndarray) -> bytes:
    """An image or mask as a file."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG")
    return buffer.getvalue()


def pair(image: Any, mask: Any) -> list[tuple[str, tuple[str, bytes]]]:
    """One example as the files of a form."""
    return [("image", ("picture.png", png(image))), ("mask", ("mask.png", png(mask)))]


def refused(answer: Any, status: int, said: str) -> None:
    """The answer is one line with that status."""
    body = answer.json()
    assert answer.status_code == status, body
    assert list(body) == ["error"]
    assert "\n" not in body["error"]
    assert len(body["error"]) < 500
    assert said in body["error"]


@contextmanager
def listening(served: FastAPI, limits: Limits | None = None) -> Iterator[str]:
    """The address at which uvicorn serves the app, as it does for `fewseg serve`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(
            server_config(served, limits or Limits(), log_level="error", timeout_graceful_shutdown=1)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        end = time.monotonic() + 60
        while not server.started and time.monotonic() < end:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
