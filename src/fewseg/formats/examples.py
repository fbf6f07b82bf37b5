"""Labelled examples that were read from files: what a segmenter is taught with."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import FewsegError, InvalidMask, InvalidOption, InvalidSupport, did_you_mean
from fewseg.images import open_image, read_mask
from fewseg.images.decode import ImageLike
from fewseg.images.masks import MaskValue
from fewseg.images.prompts import Prompt, require_foreground
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.tiles import teach_tiled
from fewseg.inference.tiling import Tile

log = logging.getLogger(__name__)

GOOD_SHARE: Final = 0.02
"""Examples whose label covers this share of the image are chosen before others."""

_SLOW: Final = 50
"""More examples of a label than this are worth a warning."""


@dataclass(frozen=True)
class SupportExample:
    """One label in one image; nothing is decoded before it is asked for."""

    label: str
    image: Path | Image.Image
    load_mask: Callable[[], ImageLike] | None
    """Gives what `fewseg.images.masks.read_mask` reads; None where there are prompts only."""
    value: MaskValue | None = None
    """Which value of the mask is the label."""
    mask_file: Path | None = None
    """The mask, where it is an image file of its own: left out of the queries, should it lie among them."""
    share: float | None = None
    """Share of the image that the label covers, where the annotation file says it."""
    load_prompts: Callable[[], tuple[Prompt, ...]] | None = None
    """Gives boxes, points and scribbles for objects without a mask."""

    def mask(self) -> NDArray[np.uint8]:
        """(H, W) of 0 background, 1 label, 255 ignored, for the upright image.

        Raises `InvalidMask`, and `InvalidSupport` where there are prompts only.
        """
        if self.load_mask is None:
            raise InvalidSupport(f"{self.image} has prompts for {self.label!r}, not a mask: teach a segmenter with it")
        image = open_image(self.image)
        return read_mask(
            self.load_mask(), value=self.value, size=image.size, orientation=image.orientation, image=image.name
        )

    def covered(self) -> float:
        """Share of the image that the label covers; reads the mask where the file does not say it.

        1 where there are prompts only, whose mask is not known yet. 0 where the mask cannot be used.
        """
        if self.share is not None:
            return self.share
        if self.load_mask is None:
            return 1.0
        try:
            return float((read_mask(self.load_mask(), value=self.value) == 1).mean())  # without opening the image
        except InvalidMask:  # teaching reports it, with its file
            return 0.0

    def mask_for(self, segmenter: Segmenter) -> tuple[ImageLike, MaskValue | None]:
        """Mask and the value of the label in it, as `Segmenter.teach` takes them; prompts become masks."""
        if self.load_prompts is None and self.load_mask is not None:
            return self.load_mask(), self.value
        prompted = self._mask_from_prompts(segmenter).astype(np.uint8)
        if self.load_mask is None:
            return prompted, 1
        mask = self.mask()
        return np.where(mask == 1, mask, np.where(prompted == 1, prompted, mask)), 1

    def _mask_from_prompts(self, segmenter: Segmenter) -> NDArray[np.bool_]:
        name = os.fspath(self.image) if isinstance(self.image, Path) else "the image"
        try:
            mask = segmenter.mask_from_prompts(self.image, self.load_prompts() if self.load_prompts is not None else ())
        except (InvalidSupport, InvalidOption) as error:
            raise InvalidSupport(f"prompts of {name}: {error}") from error
        require_foreground(mask, name)
        return mask


@dataclass(frozen=True)
class Supports:
    """All examples at a path, see `fewseg.formats.read_supports`."""

    kind: str
    """Format that they were read from: mask folders, COCO, labelme or VOC."""
    examples: tuple[SupportExample, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels in order of their first example."""
        return tuple(dict.fromkeys(example.label for example in self.examples))

    @property
    def mask_files(self) -> list[Path]:
        """Masks that are image files of their own."""
        return [example.mask_file for example in self.examples if example.mask_file is not None]

    def teach(self, segmenter: Segmenter, tile: Tile | None = None) -> None:
        """Teach every example, in order, at the scale of tiles if some are given; errors say which label and file."""
        for label, count in Counter(example.label for example in self.examples).items():
            if count > _SLOW:
                log.warning("%d examples of %r: more than a few dozen are slow; choose some with shots", count, label)
        for example in self.examples:
            try:
                mask, value = example.mask_for(segmenter)
                if tile is None:
                    segmenter.teach(example.label, example.image, mask, value=value)
                else:
                    teach_tiled(segmenter, example.label, example.image, mask, tile=tile, value=value)
            except FewsegError as error:
                # The error of a mask out of a JSON file names no file.
                files = [str(f) for f in (example.image, example.mask_file) if isinstance(f, Path)]
                named = not isinstance(example.image, Path) or any(file in str(error) for file in files)
                where = "" if named else f" in {example.image}"
                raise type(error)(f"support of {example.label!r}{where}: {error}") from error


def choose_examples(
    examples: Iterable[SupportExample], known: Iterable[str], wanted: tuple[str, ...], shots: int
) -> tuple[SupportExample, ...]:
    """The examples of the wanted labels (all if empty), at most `shots` of each (all if 0), grouped by label.

    First come those that cover at least `GOOD_SHARE` of their image, in order, then those that cover most. Reading
    stops when every label has enough. Raises `InvalidSupport` for a wanted label that is not there or has no example.
    """
    names = tuple(dict.fromkeys(known))
    for label in wanted:
        if label not in names:
            hint = did_you_mean(label, names) or f"there are: {', '.join(map(repr, names[:20]))}"
            raise InvalidSupport(f"no label {label!r} among the examples; {hint}")
    groups: dict[str, list[SupportExample]] = {label: [] for label in wanted or names}
    small: dict[str, list[tuple[float, SupportExample]]] = {label: [] for label in groups}
    for example in _until_full(examples, groups, shots):
        share = example.covered() if shots else 1.0
        if share >= GOOD_SHARE:
            groups[example.label].append(example)
        else:
            small[example.label].append((share, example))
    for label, group in groups.items():
        rest = sorted(small[label], key=lambda pair: -pair[0])
        group += [example for _, example in rest[: max(0, shots - len(group))]]
        if not group and wanted:
            raise InvalidSupport(f"no example of {label!r}: its images have no mask of it")
    return tuple(example for group in groups.values() for example in group)


def _until_full(
    examples: Iterable[SupportExample], groups: dict[str, list[SupportExample]], shots: int
) -> Iterator[SupportExample]:
    for example in examples:
        group = groups.get(example.label)
        if group is None or (shots and len(group) >= shots):
            if shots and all(len(g) >= shots for g in groups.values()):
                return
            continue
        yield example


def find_image(name: str, path: Path, images: Path | None) -> Path:
    """The image that a JSON file at `path` calls `name`; raises `InvalidSupport` saying where it was looked for."""
    parts = PurePosixPath(name.replace("\\", "/"))
    beside = path.parent
    folders = [images] if images is not None else [beside, beside / "images", beside.parent, beside.parent / "images"]
    # The whole path anywhere goes before the bare name anywhere: another image may be called the same.
    for candidate in (*(folder / parts for folder in folders), *(folder / parts.name for folder in folders)):
        if candidate.is_file():
            return candidate
    looked = str(images) if images is not None else f"{beside} and its images/, and one folder up"
    raise InvalidSupport(f"image {name} of {path} is not in {looked}: give its folder with --images")
