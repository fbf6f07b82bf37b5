"""Masks as a data set for YOLO's segmentation models."""

from __future__ import annotations

import json
from pathlib import Path

from fewseg.core.files import make_folder, write_text
from fewseg.formats.manifest import YOLO_MARK
from fewseg.formats.polygons import one_ring
from fewseg.formats.writer import LabelNumbers, MaskedImage, Writer, copy_image


class YoloWriter(Writer):
    """`yolo/`: a data set for YOLO's segmentation models; its format has no scores: they are in scores.json.

    data.yaml, images/NAME.jpg and labels/NAME.txt, with a line `CLASS x1 y1 x2 y2 ...` for every region, coordinates
    as shares of width and height; holes are cut into the outline. An image without labels has an empty file. Images
    that somebody moved with their labels, to validate on them, stay where they are, and so does what data.yaml says of
    folders.
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
            for region in image.regions(label):
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
