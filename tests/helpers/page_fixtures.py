"""A browser and a server for the page's tests; modules that import this are skipped where no browser is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.browsers import PROGRAMS

_MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
_MISSING += [name for name in ("selenium", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
if _MISSING and not os.environ.get("CI"):
    pytest.skip(f"the page's tests need {', '.join(_MISSING)}: see .ci/run", allow_module_level=True)

from helpers.page import Page, PageServer, discs  # noqa: E402

SIZE = (480, 320)
REDS = ("red-1.png", "red-2.png", "red-3.png")
"""Images with one red disc each; `green.png` has a green one."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for all tests of a module but those that kill it."""
    opened = Page("", tmp_path_factory.mktemp("profile"))
    yield opened
    opened.quit()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate(REDS):
        discs("red", seed, SIZE)[0].save(folder / name)
    discs("green", 9, SIZE)[0].save(folder / "green.png")
    running = PageServer(folder)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def opened(page: Page, server: PageServer) -> Iterator[Page]:
    """The page of a fresh folder; the console must stay silent."""
    page.address = server.address
    page.resize((1280, 800))
    page.open()
    page.errors()
    yield page
    assert page.errors() == []
    page.browser.get("about:blank")


def truth(name: str) -> np.ndarray:
    """Where the red disc of an image is."""
    return discs("red", REDS.index(name), SIZE)[1]


def middle(name: str) -> tuple[int, int]:
    """The red disc's middle, x and y."""
    y, x = (int(values.mean()) for values in np.nonzero(truth(name)))
    return x, y


def cover(page: Page, name: str) -> None:
    """Paint the open image's disc: a dab in the middle and a stroke around it, with a brush of some 56 pixels."""
    x, y = middle(name)
    page.drag([(x, y), *((x + 36 * np.cos(t), y + 36 * np.sin(t)) for t in np.linspace(0, 2 * np.pi, 12))], SIZE)
