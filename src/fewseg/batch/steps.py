"""What happens to one image: read, resized, segmented with others, brought to its own size, drawn, written.

Every engine does these steps and no others, so that all write the same bytes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import torch
from PIL import Image
from torch import Tensor

from fewseg.batch.output_folder import OutputFolder, Record, file_identity
from fewseg.core.errors import FewsegError, InvalidImage, InvalidOption, one_line
from fewseg.images import read_image_size
from fewseg.images.draw import overlay
from fewseg.images.read import fitted
from fewseg.inference.preprocess import PreparedImage, open_for, prepare
from fewseg.inference.segmenter import Segmenter

log = logging.getLogger(__name__)

OVERLAY_SIDE: Final = 2048
"""Overlays of larger images are drawn with this longest side."""

BUDGET: Final = 96_000_000
"""Pixels of all the images that are read at a time, and of all that are written; one with more passes alone."""


@dataclass(frozen=True)
class Task:
    """An image to segment."""

    source: Path
    name: str
    """Its name in the output folder."""


Outcome: TypeAlias = "tuple[Path, Record | FewsegError]"
"""An image, and its entry in results.json or why it could not be used."""


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

    def __init__(self, segmenter: Segmenter, folder: OutputFolder, overlays: bool) -> None:
        self.segmenter, self.folder, self.overlays = segmenter, folder, overlays
        self._reading, self._writing = PixelBudget(BUDGET), PixelBudget(BUDGET)

    def read(self, task: Task) -> Loaded | FewsegError:
        """Decode and resize; what is wrong with the image comes back, because the others are wanted all the same."""
        source, sizes = task.source, self.segmenter.input_sizes
        try:
            width, height = read_image_size(source)
            identity = file_identity(source)
            with self._reading.taken(width * height):
                image = open_for(source, sizes, at_least=OVERLAY_SIDE if self.overlays else 0)
                small = fitted(image.image, OVERLAY_SIDE, enlarge=False) if self.overlays else None
                return Loaded(task, prepare(image, sizes), small, identity)
        except FewsegError as error:
            return error
        except Exception as error:
            log.warning("%s: unexpected error", source, exc_info=error)
            return InvalidImage(f"{source} cannot be used ({one_line(error)}): save it again as PNG")

    def segment(self, batch: Sequence[Loaded], size: int = 1) -> Tensor:
        """Coarse probabilities of the images, which go through the model as a batch of `size`.

        A smaller batch is filled up and the rest thrown away: the last digits of a probability depend on the size of
        its batch, and should not depend on how many images were left. Raises `InvalidOption` where the device's
        memory is too small.
        """
        images = [loaded.prepared for loaded in batch]
        images += images[-1:] * (size - len(images))
        try:
            return self.segmenter.predict(self.segmenter.encode(images))[: len(batch)]
        except torch.OutOfMemoryError as error:
            raise InvalidOption(
                f"{len(images)} images at a time do not fit in the memory of {self.segmenter.method.device}: "
                "give a smaller --batch-size"
            ) from error

    def write(self, loaded: Loaded, coarse: Tensor) -> Record:
        """Write the image's files; raises `OutputError`."""
        (width, height), small = loaded.prepared.size, loaded.small
        with self._writing.taken(width * height):
            found = self.segmenter.postprocess(coarse, (width, height), probabilities=False)
            drawn = None
            if small is not None:
                same = small.size == (width, height)
                drawn = overlay(
                    small, found if same else self.segmenter.postprocess(coarse, small.size, probabilities=False)
                )
            return self.folder.write(loaded.task.source, loaded.task.name, loaded.identity, found, drawn)


class PixelBudget:
    """So many pixels at a time, whoever needs them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for `pixels` (for more than the limit: until nobody else has any), and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: self._used == 0 or self._used + pixels <= self.limit)
            self._used += pixels
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()
