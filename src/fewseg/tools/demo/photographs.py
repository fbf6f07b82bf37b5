"""Supports and queries of the demo: photographs that dependencies carry, and masks drawn for them.

The photographs are read from the installed packages; only the masks (`masks/PHOTOGRAPH-LABEL.png`) belong to this
project.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import InvalidDataset
from fewseg.images import read_image
from fewseg.images.draw import Colour

REMEDY = {"skimage": 'pip install "fewseg[demo]"', "matplotlib": "pip install matplotlib"}
"""Which command brings the package that carries a photograph."""


@dataclass(frozen=True)
class Source:
    """One photograph of an installed package, and under which terms."""

    package: str
    file: str
    """Relative to the package's folder."""
    size: tuple[int, int]
    """Width and height that the masks were drawn for."""
    title: str
    credit: str
    licence: str

    @property
    def path(self) -> Path:
        """Where the photograph is; raises `InvalidDataset` where its package is missing or does not carry it."""
        spec = importlib.util.find_spec(self.package)  # finds the folder without importing the package
        folders = list(spec.submodule_search_locations or []) if spec else []
        if not folders:
            raise InvalidDataset(f"the demo's photographs come with {self.package}: {REMEDY[self.package]}")
        path = Path(folders[0]) / self.file
        if not path.is_file():
            raise InvalidDataset(f"{path} is missing, the demo's photograph: {REMEDY[self.package]} brings it")
        return path


@dataclass(frozen=True)
class PhotoWindow:
    """A window of a photograph."""

    photograph: str
    box: tuple[int, int, int, int]
    """Left, top, right, bottom in pixels."""

    def image(self) -> Image.Image:
        """The window as an RGB image."""
        return _photograph(self.photograph).crop(self.box)

    def mask(self, label: str) -> NDArray[np.uint8]:
        """The window's mask (H, W), 1 where `label` is."""
        left, top, right, bottom = self.box
        return _drawn_mask(self.photograph, label)[top:bottom, left:right]


@dataclass(frozen=True)
class Query(PhotoWindow):
    """A window to segment, with the labels that are in it."""

    labels: tuple[str, ...]


@dataclass(frozen=True)
class DemoTask:
    """Labels taught together, and the images they are looked for in."""

    name: str
    title: str
    about: str
    """What is taught with what, said plainly."""
    colours: dict[str, Colour]
    """Label to a colour that stands out from the task's photographs."""
    support: dict[str, tuple[PhotoWindow, ...]]
    queries: tuple[Query, ...]


def sources() -> dict[str, Source]:
    """Every photograph by name."""
    return {name: Source(**{**about, "size": tuple(about["size"])}) for name, about in _manifest()["pictures"].items()}


def tasks() -> list[DemoTask]:
    """Every task, in the order of the page."""
    return [
        DemoTask(
            task["name"],
            task["title"],
            task["about"],
            {label: (red, green, blue) for label, (red, green, blue) in task["colours"].items()},
            {
                k: tuple(PhotoWindow(v["picture"], tuple(v["box"])) for v in views)
                for k, views in task["support"].items()
            },
            tuple(Query(q["picture"], tuple(q["box"]), tuple(q["labels"])) for q in task["queries"]),
        )
        for task in _manifest()["tasks"]
    ]


@functools.cache
def _manifest() -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((resources.files(__package__) / "manifest.json").read_text("utf-8"))
    return manifest


@functools.cache
def _photograph(name: str) -> Image.Image:
    source = sources()[name]
    image = read_image(source.path)
    if image.size != source.size:
        got, expected = (f"{width}x{height}" for width, height in (image.size, source.size))
        raise InvalidDataset(
            f"{source.path} is {got}, the demo's masks are {expected}: this release of {source.package} carries "
            "another photograph, install another release"
        )
    return image


@functools.cache
def _drawn_mask(image: str, label: str) -> NDArray[np.uint8]:
    file = resources.files(__package__) / "masks" / f"{image}-{label}.png"
    with file.open("rb") as stream, Image.open(stream) as mask:
        return np.asarray(mask.convert("L")).astype(bool).astype(np.uint8)
