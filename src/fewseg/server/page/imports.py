"""Annotations that are in the folder already: offered at the first start, and taken in as checked examples."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from fastapi import APIRouter
from fastapi.responses import JSONResponse
from numpy.typing import NDArray

from fewseg.core.errors import FewsegError, InvalidSupport
from fewseg.formats import read_supports
from fewseg.formats.examples import GOOD_SHARE, SupportExample, Supports
from fewseg.server.page.schemas import ExistingBody, ProjectBody
from fewseg.server.page.view import ProjectView
from fewseg.server.project.images import ImageEntry
from fewseg.server.project.project import Imported, Project
from fewseg.server.project.state import CHECKED, EXAMPLE

log = logging.getLogger(__name__)

TEACHING: Final = 12
"""Images of a label that teach; all others are checked. More make every prediction slower and hardly better."""


def add_routes(routes: APIRouter, view: ProjectView) -> None:
    """`GET /existing` and `POST /existing`."""
    existing = Existing(view.project)

    @routes.get("/existing", response_model=ExistingBody | None)
    def find() -> JSONResponse:
        """The annotations of other tools that are in the folder, null for none."""
        return JSONResponse(existing.describe())

    @routes.post("/existing", response_model=ProjectBody)
    def take() -> JSONResponse:
        """Take these annotations in, as examples and checked masks; undo takes them out again."""
        existing.take()
        return JSONResponse(view.whole())


class Existing:
    """The annotations in a project's folder, which are read when they are asked for."""

    def __init__(self, project: Project) -> None:
        self._project, self._lock = project, threading.Lock()
        self._found: Supports | None = None

    def _supports(self) -> Supports | None:
        with self._lock:
            if self._found is None:  # files may come while the server runs
                try:
                    self._found = read_supports(self._project.folder)
                except FewsegError as error:
                    log.debug("no annotations in the folder: %s", error)
            return self._found

    def _usable(self, supports: Supports) -> Iterator[tuple[ImageEntry, SupportExample]]:
        """The examples with a mask of an image in the folder."""
        images = {os.path.realpath(image.path): image for image in self._project.images.values() if not image.error}
        for example in supports.examples:
            if isinstance(example.image, Path) and example.load_mask is not None:
                image = images.get(os.path.realpath(example.image))
                if image is not None:
                    yield image, example

    def describe(self) -> dict[str, object] | None:
        """Kind, number of images and labels; None for no annotations."""
        supports = self._supports()
        usable = [] if supports is None else list(self._usable(supports))
        if supports is None or not usable:
            return None
        counts = Counter(example.label for _, example in usable)
        labels = [{"name": name, "pictures": n} for name, n in counts.items()]
        return {"kind": supports.kind, "pictures": len({image.id for image, _ in usable}), "labels": labels}

    def take(self) -> None:
        """Take them in; raises `InvalidSupport` where there are none any more."""
        supports = self._supports()
        if supports is None:
            raise InvalidSupport("there are no annotations in the folder that can be read: start with a label")
        folder = os.path.realpath(self._project.folder)
        files = (os.path.relpath(os.path.realpath(file), folder).replace(os.sep, "/") for file in supports.mask_files)
        self._project.take_in(self._masks(supports), files, f"Take in annotations ({supports.kind})")

    def _masks(self, supports: Supports) -> Iterator[Imported]:
        groups: dict[tuple[str, str], list[tuple[ImageEntry, SupportExample]]] = defaultdict(list)
        for image, example in self._usable(supports):
            groups[image.id, example.label].append((image, example))
        teaching = Counter[str]()
        for (identifier, label), group in groups.items():
            mask = np.zeros((group[0][0].height, group[0][0].width), np.bool_)
            for _, example in group:
                mask |= _mask(example, mask.shape)
            if mask.any():
                teaches = teaching[label] < TEACHING and (mask.mean() >= GOOD_SHARE or not teaching[label])
                teaching[label] += teaches
                yield Imported(identifier, label, mask, EXAMPLE if teaches else CHECKED)


def _mask(example: SupportExample, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The example's mask (H, W); all False, and a line in the log, where it cannot be read."""
    try:
        mask: NDArray[np.bool_] = example.mask() == 1
        if mask.shape == shape:
            return mask
    except FewsegError as error:
        log.warning("left out: %s", example.about(error))
    return np.zeros(shape, np.bool_)
