"""The interface of every dataset: classes, and images with a mask of each class they show."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image


class Dataset(Protocol):
    """Images by name and their masks by class. Names are stable, so that episodes can be saved and read again."""

    @property
    def name(self) -> str:
        """Short name for tables and file names."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; a class id is an index into them."""

    def names(self, class_id: int) -> tuple[str, ...]:
        """The usable images of a class, sorted: what episodes are drawn from."""

    def image(self, name: str) -> Image.Image:
        """The image, upright, RGB."""

    def mask(self, name: str, class_id: int) -> NDArray[np.uint8]:
        """(H, W) at the image's size: 1 the class, 255 ignored, 0 everything else; empty where the class is not."""

    def files(self, name: str) -> tuple[Path, ...]:
        """The files of the image and its masks; none where it is generated."""
