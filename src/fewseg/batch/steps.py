"""What happens to one image: read, resized, segmented with others, brought to its own size, drawn, written.

Every engine does these steps and no others, so that all write the same bytes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import torch
from PIL import Image
from torch import Tensor

from fewseg.batch.earlier import Record
from fewseg.batch.output_folder import OutputFolder, file_identity
from fewseg.core.errors import FewsegError, InvalidImage, InvalidOption, one_line
from fewseg.images import open_image, read_image_size
from fewseg.images.draw import OVERLAY_SIDE, overlay_of
from fewseg.images.read import fitted
from fewseg.inference.preprocess import PreparedImage, open_for, prepare
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiles import segment_tiled
from fewseg.inference.tiling import TileOptions

log = logging.getLogger(__name__)

BUDGET: Final = 96_000_000
"""Pixels of all the images that are read at a time, and of all that are written; one with more passes alone."""

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """An image to segment."""

    source: Path
    name: str
    """Its name in the output folder."""


Outcome: TypeAlias = "tuple[Path, Record | FewsegError | None]"
"""An image or frame with its entry in results.json, why it could not be used, or None if it was finished already."""


@dataclass(frozen=True)
class Loaded:
    """An image on its way to the model."""

    task: Task
    prepared: PreparedImage
    small: Image.Image | None
    """For the overlay."""
    identity: list[int]
    """Of the file when it was read."""


class ImageSteps:
    """The steps, over a taught segmenter and an output folder; may be called from several threads."""

    def __init__(
        self,
        segmenter: Segmenter,
        folder: OutputFolder,
        overlays: bool,
        *,
        overlay_side: int = OVERLAY_SIDE,
        budget: int = BUDGET,
    ) -> None:
        self.segmenter, self.folder, self.overlays, self.overlay_side = segmenter, folder, overlays, overlay_side
        self._reading, self._writing = PixelBudget(budget), PixelBudget(budget)

    def read(self, task: Task) -> Loaded | FewsegError:
        """Decode and resize; what is wrong with the image comes back, because the others are wanted all the same."""
        return attempt(task.source, lambda: self._read(task))

    def _read(self, task: Task) -> Loaded:
        source, sizes = task.source, self.segmenter.input_sizes
        width, height = read_image_size(source)
        identity = file_identity(source)
        with self._reading.taken(width * height):
            image = open_for(source, sizes, at_least=self.overlay_side if self.overlays else 0)
            small = fitted(image.image, self.overlay_side, enlarge=False) if self.overlays else None
            prepared = prepare(image, sizes, pixels=self.segmenter.needs_pixels)
            return Loaded(task, prepared, small, identity)

    def segment(self, batch: Sequence[Loaded], size: int = 1) -> Sequence[Tensor]:
        """Coarse probabilities of the images, which go through the model as a batch of `size`.

        A smaller batch is filled up and the rest thrown away: the last digits of a probability depend on the size of
        its batch, and should not depend on how many images were left. Raises `InvalidOption` where the device's
        memory is too small.
        """
        images = [loaded.prepared for loaded in batch]
        images += images[-1:] * (size - len(images))
        with fitting(len(images), "images", self.segmenter):
            return self.segmenter.predict(self.segmenter.encode(images))[: len(batch)]

    def write(self, loaded: Loaded, coarse: Tensor) -> Record:
        """Write the image's files; raises `OutputError`."""
        (width, height), small = loaded.prepared.size, loaded.small
        with self._writing.taken(width * height):
            result = self.segmenter.postprocess(coarse, (width, height), probabilities=False)
            shown = self.folder.shown(result)
            drawn = overlay_of(small, shown, side=self.overlay_side) if small is not None else None
            return self.folder.write(loaded.task.source, loaded.task.name, loaded.identity, result, drawn)


class TilesEngine:
    """Segments images in tiles, one after the other: beside an image, its masks and a row of tiles, nothing is held."""

    def __init__(
        self, segmenter: Segmenter, folder: OutputFolder, overlays: bool, tiles: TileOptions, batch_size: int
    ) -> None:
        self.segmenter, self.folder, self.overlays = segmenter, folder, overlays
        self.tiles, self.batch_size = tiles, batch_size or segmenter.default_batch_size

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """What became of each image, in order; raises as `ThreadsEngine.run`."""
        for task in tasks:
            read = attempt(task.source, lambda task=task: self._read(task.source))  # type: ignore[misc]
            yield task.source, read if isinstance(read, FewsegError) else self._finish(task, *read)

    def _read(self, source: Path) -> tuple[Image.Image, list[int]]:
        read_image_size(source)  # reports what is no image before anything is read
        identity = file_identity(source)
        return open_image(source).image, identity

    def _finish(self, task: Task, image: Image.Image, identity: list[int]) -> Record:
        side, overlap, size = self.tiles.side, self.tiles.overlap, self.batch_size
        with fitting(size, "tiles", self.segmenter):
            result = segment_tiled(
                self.segmenter, image, tile=side, overlap=overlap, batch_size=size, probabilities=False
            )
        drawn = overlay_of(image, self.folder.shown(result)) if self.overlays else None
        return self.folder.write(task.source, task.name, identity, result, drawn)


def attempt(source: Path, read: Callable[[], T]) -> T | FewsegError:
    """What `read` gives, or why the image at `source` cannot be read."""
    try:
        return read()
    except FewsegError as error:
        return error
    except Exception as error:
        log.warning("%s: unexpected error", source, exc_info=error)
        return InvalidImage(f"{source} cannot be used ({one_line(error)}): save it again as PNG")


@contextmanager
def fitting(count: int, what: str, segmenter: Segmenter) -> Iterator[None]:
    """Raise `InvalidOption` where so many images (or `what`) do not fit in the memory of the segmenter's device."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise InvalidOption(
            f"{count} {what} at a time do not fit in the memory of {segmenter.method.device}: give a smaller "
            "--batch-size"
        ) from error


class PixelBudget:
    """A limit on the pixels that all threads together hold in memory: each waits until its image fits."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Hold `pixels` of the limit, after waiting for them; more than the limit waits until nobody else has any."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + pixels <= self.limit)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()
