"""Data sets for YOLO's segmentation models: examples read from them, masks written as them.

Reading: data.yaml names classes and folders of images; the labels of images/x.jpg are in labels/x.txt, a line
`CLASS x1 y1 x2 y2 ...` for each polygon, as shares of the upright image. Lines of four numbers are boxes, which become
box prompts. Folders are looked for beside data.yaml where they are not where it says: it often names those of another
computer. Without data.yaml, classes.txt does. Nothing else in data.yaml counts; `download:`, which others run, least.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from fewseg.core.errors import InvalidSupport
from fewseg.core.files import make_folder, write_text
from fewseg.formats.annotated import AnnotatedImage, Box, Shape, Size
from fewseg.formats.left_out import LeftOut
from fewseg.formats.manifest import YOLO_MARK
from fewseg.formats.parse import parse_yaml, read_text
from fewseg.formats.polygons import one_ring
from fewseg.formats.rasterise import fill_polygons
from fewseg.formats.reading import Reading, Request, images_below, reading_of
from fewseg.formats.writer import LabelNumbers, MaskedImage, Writer, copy_image
from fewseg.images.kinds import SUFFIXES

_SPLITS: Final = ("train", "val", "validation", "valid", "test", "minival")
_BEYOND: Final = 0.01
"""Share of the image by which corners may lie outside it."""


@dataclass(frozen=True)
class _Classes:
    """What a data set says of its label files."""

    names: tuple[str, ...]
    pose: bool = False
    """Whether lines are boxes with key points."""


def yolo_file(folder: Path) -> Path | None:
    """The file that describes a data set in a folder: a YAML with its classes, or classes.txt; None for none."""
    for path in sorted(folder.glob("*.y*ml"), key=lambda p: (p.stem not in ("data", "dataset"), p.name)):
        if path.is_file() and not path.name.startswith(".") and is_yolo(path):
            return path
    listed = folder / "classes.txt"
    labels = folder / "labels"
    return listed if listed.is_file() and labels.is_dir() and any(labels.rglob("*.txt")) else None


def is_yolo(path: Path) -> bool:
    """Whether a YAML file describes a data set for YOLO."""
    try:
        content = parse_yaml(path)
    except InvalidSupport:
        return path.stem == "data"  # reading says what is wrong
    return (
        isinstance(content, dict) and bool({"names", "nc"} & set(content)) and bool({*_SPLITS, "path"} & set(content))
    )


def read_yolo(path: Path, request: Request) -> Reading:
    """The examples of a data set that data.yaml, or classes.txt, describes; raises `InvalidSupport`."""
    if path.suffix.lower() == ".txt":
        lines = [line.strip() for line in read_text(path).splitlines()]
        classes = _Classes(tuple(line for line in lines if line))
        files = list(images_below(request.images or path.parent / "images").values())
    else:
        content = parse_yaml(path)
        if not isinstance(content, dict):
            raise InvalidSupport(f"{path} describes no data set: expected names, train and val")
        classes = _Classes(_names(content, path), "kpt_shape" in content)
        files = list(_files(content, path, request))
    images = [_annotated(file, classes, request.left) for file in dict.fromkeys(files)]
    drawn = {shape.label for image in images for shape in image.shapes}
    if not drawn:
        raise request.left.nothing(
            f"{path} describes {len(files)} images, and no label file beside them has a polygon or box"
        )
    return reading_of("YOLO", [name for name in classes.names if name in drawn], images, request)


def _names(content: dict[Any, Any], path: Path) -> tuple[str, ...]:
    names, count = content.get("names"), content.get("nc")
    if isinstance(names, dict):
        numbered = {str(key).strip(): name for key, name in names.items()}
        names = [numbered.get(str(i)) for i in range(len(numbered))]
    if names is None and str(count).strip().isdecimal() and 0 < int(str(count).strip()[:6]) <= 10_000:
        names = [f"class_{i}" for i in range(int(str(count).strip()))]
    plain = isinstance(names, list) and all(isinstance(n, (str, int, float)) and str(n).strip() for n in names)
    if not names or not plain:
        raise InvalidSupport(f"{path} has names {names!r:.60}: expected a list of class names, or 0: name, 1: name ...")
    return tuple(str(name).strip() for name in names)


def _files(content: dict[Any, Any], path: Path, request: Request) -> Iterator[Path]:
    """The images of the wanted splits."""
    if request.images is not None:
        yield from images_below(request.images).values()
        return
    places = [_below(path.parent, content["path"])] if isinstance(content.get("path"), str) else []
    roots = [place for place in places if place.is_dir()] + [path.parent]
    tried: list[str] = []
    found = False
    for split in _SPLITS:
        said = content.get(split)
        for entry in said if isinstance(said, list) else [said]:
            if not isinstance(entry, str) or not entry.strip() or not request.wants_split(split):
                continue
            place = _resolved(entry, roots)
            if place is None:
                tried.append(f"{split}: {entry:.80}")
                continue
            found = True
            yield from _listed(place, roots, request.left) if place.is_file() else images_below(place).values()
    if not found:
        told = ", ".join(tried) or "it names none" + (f" for the split {request.split!r}" if request.split else "")
        raise InvalidSupport(f"{path}: no folder of images is there ({told}): put them beside it, or give --images")
    for name in tried:
        request.left.kind("parts of the data set whose folder is missing", name)


def _below(root: Path, said: str) -> Path:
    """The place that a description names; one of another computer is nowhere."""
    return root / said.strip().replace("\\", "/")


def _resolved(said: str, roots: list[Path]) -> Path | None:
    """The folder or list of images, as it is written or, where that is not there, by the end of its path."""
    text = said.strip().replace("\\", "/")
    parts = [part for part in PurePosixPath(text).parts if part not in ("..", ".", "/") and not part.endswith(":")]
    for tail in [text, *("/".join(parts[-n:]) for n in (len(parts), 2, 1) if parts)]:
        for candidate in (root / spelling for root in roots for spelling in (tail, _valid(tail))):
            if candidate.is_dir() or (candidate.is_file() and candidate.suffix.lower() == ".txt"):
                return candidate
    return None


def _valid(tail: str) -> str:
    """The path with `valid` in place of `val`."""
    return "/".join("valid" if part == "val" else part for part in tail.split("/"))


def _listed(path: Path, roots: list[Path], left: LeftOut) -> Iterator[Path]:
    """The images that a text file lists, one a line."""
    for line in filter(None, (line.strip() for line in read_text(path).splitlines())):
        text = line.replace("\\", "/")
        parts = [part for part in PurePosixPath(text).parts if part not in ("..", ".", "/") and not part.endswith(":")]
        tails = [text, *("/".join(parts[-n:]) for n in range(len(parts), 0, -1))]
        place = next((root / t for t in tails for root in (*roots, path.parent) if (root / t).is_file()), None)
        if place is None:
            left.bad(f"image {line:.200} of {path} is missing: give the images' folder with --images")
        elif place.suffix.lower() in SUFFIXES:
            yield place


def _labels_of(image: Path) -> Path:
    """The label file of an image: the last folder called images is labels for it."""
    parts = list(image.parts[:-1])
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts, image.stem + ".txt")


def _annotated(file: Path, classes: _Classes, left: LeftOut) -> AnnotatedImage:
    labels = _labels_of(file)
    shapes: list[Shape] = []
    if labels.is_file():
        lines = dict.fromkeys(line.strip() for line in read_text(labels).splitlines())
        for number, line in enumerate(lines, 1):
            try:
                shapes += _shapes(line.split(), f"line {number} of {labels}", classes, left) if line else []
            except InvalidSupport as error:
                left.bad(error)
    if not shapes:
        left.kind("images without labels", str(file))
    return AnnotatedImage(f"image {file}", lambda: file, shapes, name=file.name)


def _shapes(fields: list[str], where: str, classes: _Classes, left: LeftOut) -> list[Shape]:
    """The shape of a line; none for one that covers no area."""
    try:
        number, values = float(fields[0]), [float(value) for value in fields[1:]]
    except ValueError:
        raise InvalidSupport(f"{where} is {' '.join(fields)!r:.60}: expected a class number and numbers") from None
    if not number.is_integer() or not 0 <= number < len(classes.names):
        raise InvalidSupport(f"{where} has class {fields[0]:.20}, {len(classes.names)} are named: add its name")
    label = classes.names[int(number)]
    if len(values) < 4:
        raise InvalidSupport(f"{where} has {len(values)} numbers: expected a polygon of three corners, or a box")
    places = values[:4] if classes.pose else values[: len(values) // 2 * 2]
    if not all(-_BEYOND <= value <= 1 + _BEYOND for value in places):
        raise InvalidSupport(f"{where} has numbers beyond 0 to 1: they are pixels, not shares; export it again")
    if classes.pose or len(values) < 6:  # one more is a confidence, or a track's number
        return [Shape(label, where, box=partial(_box, places[:4]))]
    points = np.array(places).reshape(-1, 2).clip(0, 1)
    if len(np.unique(points, axis=0)) < 3:
        left.kind("polygons of less than three corners", where)
        return []
    return [Shape(label, where, lambda size: fill_polygons([points * size], size, where))]


def _box(values: list[float], size: Size) -> Box:
    """The box of its centre, width and height, as shares."""
    x, y, width, height = values
    return (
        max(x - width / 2, 0) * size[0],
        max(y - height / 2, 0) * size[1],
        min(x + width / 2, 1) * size[0],
        min(y + height / 2, 1) * size[1],
    )


class YoloWriter(Writer):
    """`yolo/`: a data set for YOLO's segmentation models; its format has no scores: they are in scores.json.

    data.yaml, images/NAME.jpg and labels/NAME.txt, with a line `CLASS x1 y1 x2 y2 ...` for every object (its largest
    region), or every region where objects are not known, coordinates as shares of width and height; holes are cut into
    the outline. An image without labels has an empty file. Images that somebody moved with their labels, to validate on
    them, stay where they are, and so does what data.yaml says of folders.
    """

    def __init__(self, out: Path, labels: LabelNumbers) -> None:
        self._out, self._labels = out / "yolo", labels
        self._scores: dict[str, dict[str, float]] = {}
        here = self._out / "labels"
        self._moved = {
            path.stem: path
            for path in sorted(self._out.rglob("*.txt"))
            if "labels" in path.relative_to(self._out).parts[:-1] and path.parent != here
        }
        make_folder(here)
        make_folder(self._out / "images")

    def add(self, image: MaskedImage) -> int:
        """The label file, and the image where images are copied."""
        record, files = image.record, 1
        target = self._moved.get(record.name, self._out / "labels" / f"{record.name}.txt")
        if image.options.copy_images != "never" and record.name not in self._moved:
            source = image.needed_image("a copy for YOLO")
            copy_image(source, self._out / "images" / f"{record.name}{source.suffix.lower()}")
            files += 1
        lines = []
        for label in image.masks:
            # A line is an object: of the regions of one only the largest fits in.
            known = label in image.record.objects
            outlines = [g[0] for _, g in image.shapes(label)] if known else image.regions(label)
            for region in outlines:
                corners = (one_ring(region) / record.size).clip(0, 1)
                lines.append(f"{self._labels.number(label)} " + " ".join(f"{v:.7g}" for v in corners.ravel()))
        write_text(target, "".join(line + "\n" for line in lines))
        self._scores[record.name] = {label: round(record.score(label), 4) for label in image.masks}
        return files

    def finish(self) -> int:
        """data.yaml, in which without `path` folders are beside the file, and scores.json."""
        names = "".join(f"  {i}: {_quoted(name)}\n" for i, name in enumerate(self._labels.names))
        head = f"{YOLO_MARK}: move some images (and their labels) to a val folder before training.\n"
        text = f"names:{' {}' if not names else ''}\n{names}"
        write_text(self._out / "data.yaml", head + self._folders() + text)
        write_text(self._out / "scores.json", json.dumps(self._scores, indent=1) + "\n")
        return 2

    def _folders(self) -> str:
        """Lines about folders: those that are there, or one folder for everything."""
        try:
            lines = (self._out / "data.yaml").read_text("utf-8").splitlines()
        except (OSError, ValueError):
            lines = []
        kept = [line for line in lines if line.startswith(("path:", "train:", "val:", "test:"))]
        return "".join(f"{line}\n" for line in kept) or "train: images\nval: images\n"


def _quoted(name: str) -> str:
    """As YAML reads it: like JSON, but what is beyond 16 bits is one number there, not a pair."""
    escaped = (json.dumps(c)[1:-1] if ord(c) < 0x10000 else f"\\U{ord(c):08x}" for c in name)
    return f'"{"".join(escaped)}"'
