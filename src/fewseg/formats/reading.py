"""What every reader of examples is asked for and gives, and how it finds the images that a file names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from fewseg.core.errors import InvalidSupport
from fewseg.formats.annotated import AnnotatedImage, examples_of
from fewseg.formats.examples import SupportExample
from fewseg.formats.left_out import LeftOut
from fewseg.images.kinds import is_image, tell_unread

SPLITS: Final = ("train", "training", "valid", "val", "validation", "test", "testing")
"""Names of folders that hold a part of a data set, not a label."""

_MOST_FILES: Final = 200_000
"""So many files below a folder are searched for an image's name."""


@dataclass(frozen=True)
class Request:
    """What a caller of `read_supports` wants."""

    left: LeftOut
    images: Path | None = None
    """Folder of the images, where it is not beside the annotations."""
    labels: tuple[str, ...] = ()
    """Only these; all if empty."""
    split: str = ""
    """Only this part of a data set; all if empty."""

    def wants_split(self, name: str) -> bool:
        """Whether a part of the data set with this name is wanted: `val`, `valid` and `validation` are one."""
        return not self.split or _split(name) == _split(self.split)


@dataclass(frozen=True)
class Reading:
    """What a reader found."""

    kind: str
    labels: tuple[str, ...]
    """All labels in the files, wanted or not."""
    examples: Iterable[SupportExample]
    """Examples of the wanted labels; images are looked for and masks read one after the other."""


def reading_of(kind: str, labels: Iterable[str], images: list[AnnotatedImage], request: Request) -> Reading:
    """The examples of images that a tool annotated; of augmented versions of an image the first counts."""
    known = tuple(dict.fromkeys(labels))
    wanted = [label for label in known if not request.labels or label in request.labels]
    kept = list(_one_version(images, request.left))
    return Reading(kind, known, examples_of(kept, wanted, request.left))


def _one_version(images: Iterable[AnnotatedImage], left: LeftOut) -> Iterator[AnnotatedImage]:
    sources: set[str] = set()
    for image in images:
        source = augmented_source(image.name)
        if source in sources:
            left.kind("further augmented versions of an image that is taken already", image.where)
            continue
        if source is not None:
            sources.add(source)
        yield image


def augmented_source(name: str) -> str | None:
    """The image that Roboflow made this version of: `a` for a_jpg.rf.0123...jpg; None for other names.

    >>> augmented_source("train/a_jpg.rf.0f1e2d3c4b5a69788796a5b4c3d2e1f0.jpg")
    'a_jpg'
    """
    source, mark, rest = PurePosixPath(name).name.partition(".rf.")
    code = rest.partition(".")[0].partition("_")[0]
    return source if mark and len(code) == 32 else None


def _split(name: str) -> str:
    return {"val": "val", "vali": "val", "trai": "train", "test": "test"}.get(name.lower()[:4], name.lower())


def find_image(name: str, path: Path, images: Path | None, *, anywhere: bool = False) -> Path:
    """The image that a file at `path` calls `name`; raises `InvalidSupport` saying where it was looked for.

    With `anywhere` an image of that name further below will do where there is exactly one.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    beside = path.parent
    folders = [images] if images is not None else [beside, beside / "images", beside.parent, beside.parent / "images"]
    # The whole path anywhere goes before the bare name anywhere: another image may be called the same.
    for candidate in (*(folder / parts for folder in folders), *(folder / parts.name for folder in folders)):
        if parts.name and _is_file(candidate):
            return candidate
    if anywhere:
        below = [found for found in _files(images or beside) if found.name == parts.name]
        if len(below) == 1:
            return below[0]
    looked = str(images) if images is not None else f"{beside} and its images/, and one folder up"
    raise InvalidSupport(
        f"image {name:.200} of {path} is missing, it is not in {looked}: give its folder with --images"
    )


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _files(folder: Path) -> Iterator[Path]:
    seen = 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in files:
            seen += 1
            if seen > _MOST_FILES:
                return
            yield Path(root, name)


def images_below(folder: Path) -> dict[str, Path]:
    """The images of a folder and its subfolders by their path without ending: `b/a` for FOLDER/b/a.jpg."""
    found: dict[str, Path] = {}
    files = sorted(_files(folder))
    tell_unread(folder, files)
    for path in files:
        if is_image(path):
            found.setdefault(path.relative_to(folder).with_suffix("").as_posix(), path)
    return found
