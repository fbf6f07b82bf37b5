"""Labelled examples that were read from files: what a segmenter is taught with."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewseg.core.errors import FewsegError, InvalidOption, InvalidSupport, did_you_mean
from fewseg.formats.left_out import LeftOut
from fewseg.images import open_image, read_mask
from fewseg.images.decode import ImageLike
from fewseg.images.masks import MaskValue
from fewseg.images.orientation import orientation, upright_size
from fewseg.images.prompts import Prompt, require_foreground
from fewseg.images.read import read_image_header
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.supports import check_label
from fewseg.inference.tiles import teach_tiled
from fewseg.inference.tiling import Tile

log = logging.getLogger(__name__)

GOOD_SHARE: Final = 0.02
"""Examples whose label covers this share of the image are chosen before others."""

_LEAST: Final = 64
"""Side to which images are decoded when they are only checked."""

_T = TypeVar("_T")

_SLOW: Final = 50
"""More examples of a label than this are worth a warning."""


@dataclass(frozen=True)
class SupportExample:
    """One label in one image; nothing is decoded before it is asked for."""

    label: str
    """Blanks around it do not count."""
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", self.label.strip())

    def mask(self) -> NDArray[np.uint8]:
        """(H, W) of 0 background, 1 label, 255 ignored, for the upright image.

        Raises `InvalidMask`, and `InvalidSupport` where there are prompts only.
        """
        if self.load_mask is None:
            raise InvalidSupport(f"{self.image} has prompts for {self.label!r}, not a mask: teach a segmenter with it")
        size, turn = header_of(self.image)
        name = self._name
        return read_mask(self.load_mask(), value=self.value, size=size, orientation=turn, image=name)

    def check(self) -> float:
        """Share of the image that the label covers, 1 where there are prompts only, whose mask is not known yet.

        Reads the mask and the prompts, as teaching will; raises `FewsegError` where they cannot be used.
        """
        if self.load_prompts is not None:
            size, _ = header_of(self.image)
            for prompt in self._prompts():
                self._named(_check_within, prompt, size)
        return 1.0 if self.load_mask is None else float((self.mask() == 1).mean())

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
        mask = self._named(segmenter.mask_from_prompts, self.image, self._prompts())
        require_foreground(mask, self._name)
        return mask

    def _prompts(self) -> tuple[Prompt, ...]:
        return () if self.load_prompts is None else self._named(self.load_prompts)

    @property
    def _name(self) -> str:
        return os.fspath(self.image) if isinstance(self.image, Path) else "the image"

    def _named(self, call: Callable[..., _T], *arguments: Any) -> _T:
        """What the call gives; its error says whose prompts they are."""
        try:
            return call(*arguments)
        except (InvalidSupport, InvalidOption) as error:
            raise InvalidSupport(f"prompts of {self._name}: {error}") from error

    def about(self, error: FewsegError) -> str:
        """The error in a line that says which label and file it is about."""
        # The error of a mask out of a JSON file names no file.
        files = [str(f) for f in (self.image, self.mask_file) if isinstance(f, Path)]
        named = not isinstance(self.image, Path) or any(file in str(error) for file in files)
        return f"support of {self.label!r}{'' if named else f' in {self.image}'}: {error}"


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

    def teach(self, segmenter: Segmenter, tile: Tile | None = None, *, check: bool = True) -> None:
        """Teach every example, in order, at the scale of tiles if some are given; errors say which label and file.

        With `check`, the log questions what is probably not meant, see `Segmenter.teach`.
        """
        for label, count in Counter(example.label for example in self.examples).items():
            if count > _SLOW:
                log.warning("%d examples of %r: more than a few dozen are slow; choose some with shots", count, label)
        for example in self.examples:
            try:
                mask, value = example.mask_for(segmenter)
                if tile is None:
                    segmenter.teach(example.label, example.image, mask, value=value, check=check)
                else:
                    teach_tiled(segmenter, example.label, example.image, mask, tile=tile, value=value, check=check)
            except FewsegError as error:
                raise type(error)(example.about(error)) from error

    def fit_presence(self, segmenter: Segmenter, refused: Sequence[Path] = ()) -> None:
        """Set the presence threshold of every label that `teach` taught, see `Segmenter.fit_presence`."""
        for label in self.labels:
            images = [example.image for example in self.examples if example.label == label]
            threshold = segmenter.fit_presence(label, images, refused)
            if threshold is not None:
                log.info("%r counts as present from a score of %.3f", label, threshold)


def _check_within(prompt: Prompt, size: tuple[int, int]) -> None:
    """Raise `InvalidSupport` where the prompt is not of an image of this size."""
    prompt.check_within(size)
    if prompt.box is not None:
        x0, y0, x1, y1 = prompt.box
        if x1 <= 0 or y1 <= 0 or x0 >= size[0] or y0 >= size[1]:
            given = ", ".join(f"{v:g}" for v in prompt.box)
            raise InvalidSupport(f"box {given} in an image of {size[0]}x{size[1]}: give x0, y0, x1, y1 within it")


def header_of(image: Path | Image.Image) -> tuple[tuple[int, int], int]:
    """(width, height) of the upright image, and its EXIF orientation; no pixels are decoded."""
    if isinstance(image, Path):
        return read_image_header(image)
    turn = orientation(image)
    return upright_size(image.size, turn), turn


def choose_examples(
    examples: Iterable[SupportExample], known: Iterable[str], wanted: tuple[str, ...], shots: int, left: LeftOut
) -> tuple[SupportExample, ...]:
    """The examples of the wanted labels (all if empty), at most `shots` of each (all if 0), grouped by label.

    First come those that cover at least `GOOD_SHARE` of their image, in order, then those that cover most. Reading
    stops when every label has enough. Every chosen example has been checked: its image can be read and its mask fits.
    Raises `InvalidSupport` for a wanted label that is not there, and where no example can be used.
    """
    names = tuple(dict.fromkeys(name.strip() for name in known))
    wanted = tuple(dict.fromkeys(label.strip() for label in wanted))
    for label in wanted:
        if label not in names:
            hint = did_you_mean(label, names) or f"there are: {', '.join(map(repr, names[:20]))}"
            raise InvalidSupport(f"no label {label!r} among the examples; {hint}")
    usable = _Check(left)
    groups: dict[str, list[SupportExample]] = {label: [] for label in wanted or names}
    small: dict[str, list[tuple[float, SupportExample]]] = {label: [] for label in groups}
    for example in _until_full(examples, groups, shots):
        share = example.share
        if share is None or share >= GOOD_SHARE or not shots:
            share = usable.share(example)
        if shots and share is not None and share < GOOD_SHARE:
            small[example.label].append((share, example))
        elif share is not None:
            groups[example.label].append(example)
    for label, group in groups.items():
        for _, example in sorted(small[label], key=lambda pair: -pair[0]):
            if len(group) < shots and usable.share(example) is not None:
                group.append(example)
        if not group and wanted:
            raise left.nothing(f"no example of {label!r}: its images have no mask of it")
    if left.any and not any(groups.values()):
        raise left.nothing("no example is left")
    for label in (label for label, group in groups.items() if not group and label in usable.failed):
        left.note(f"label {label!r} is not taught: none of its examples can be used")
    return tuple(example for group in groups.values() for example in group)


class _Check:
    """Reads examples before they are chosen, each image once."""

    def __init__(self, left: LeftOut) -> None:
        self._left = left
        self._images: dict[Path, FewsegError | None] = {}
        self.failed: set[str] = set()
        """Labels of examples that could not be used."""

    def share(self, example: SupportExample) -> float | None:
        """Share of the image that the label covers; None, and a line, where the example cannot be used."""
        try:
            check_label(example.label)
            self._read(example.image)
            return example.check()
        except FewsegError as error:
            self._left.bad(type(error)(example.about(error)))
            self.failed.add(example.label)
            return None

    def _read(self, image: Path | Image.Image) -> None:
        """Raise `InvalidImage` for an image that cannot be decoded."""
        if not isinstance(image, Path):
            open_image(image)
            return
        if image not in self._images:
            try:
                open_image(image, at_least=_LEAST)
                self._images[image] = None
            except FewsegError as error:
                self._images[image] = error
        error_before = self._images[image]
        if error_before is not None:
            raise error_before


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
