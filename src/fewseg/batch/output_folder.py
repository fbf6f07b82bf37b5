"""The folder that segmented files are written to.

    results.json          every image's labels, by which model and examples, and what could not be read
    labels/NAME.png       label map: 0 background, i the i-th label (palette image; 16-bit above 255 labels)
    masks/LABEL/NAME.png  the label's mask, 0 and 255, with its score as text; labels may overlap here
    objects/LABEL/NAME.png instance map: 0 background, i the i-th object (16-bit)
    objects.csv, counts.csv  a line an object, see `fewseg.batch.object_tables`
    overlays/NAME.jpg     the masks on the image
    earlier/              what earlier runs left in these folders and results.json does not list any more
    journal.jsonl         finished images, while a run is under way or after it was interrupted

Everything but the journal is written to a temporary file that takes the final name when complete. NAME is the
image's name without ending, with its folder's name or a number where two images would share one.

A label that is judged absent has an empty mask, and no pixels in the label map and the overlay, unless masks of absent
labels are asked for: results.json says its score and the area that its mask would have.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import threading
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fewseg.batch.earlier import EARLIER, FOLDERS, FORMAT, JOURNAL, RESULTS, Record, earlier_records, files_of
from fewseg.batch.object_tables import write_tables
from fewseg.batch.output_names import OutputNames, label_folders
from fewseg.core.errors import InvalidImage, OutputError
from fewseg.core.files import make_folder, write_text
from fewseg.core.types import Prediction
from fewseg.images.draw import label_colours
from fewseg.images.encode import Encoding, index_image, save_image, save_mask
from fewseg.inference.segmenter import Segmenter

log = logging.getLogger(__name__)

_MOST_OBJECTS = 65535
"""Objects that a 16-bit instance map can number."""


class OutputFolder:
    """The output folder of one run, which knows what earlier runs left there."""

    def __init__(
        self,
        root: str | os.PathLike[str],
        segmenter: Segmenter,
        variant: Mapping[str, Any] | None = None,
        *,
        absent: bool = False,
        objects: bool = True,
    ) -> None:
        """Make or open the folder; raises `OutputError` where that fails or it belongs to something else.

        `variant` are further choices (JSON values) that results depend on, beside the segmenter's; with `absent`, masks
        of labels that are judged absent are written too; with `objects`, single objects are told apart.
        """
        self.root, self.absent, self.objects = Path(root), absent, objects
        variant = {**(variant or {}), "absent": absent}
        if objects:
            shapes = segmenter.object_shapes
            variant["kinds"] = {label: shape.kind for label, shape in shapes.items()}
            variant["objects"] = hashlib.sha256(repr(list(shapes.values())).encode()).hexdigest()[:8]
        self.results, self.journal = self.root / RESULTS, self.root / JOURNAL
        self.made_by = segmenter.fingerprint
        """What decides the results beside the images: entries of other runs are not listed beside this one's."""
        self._about = _describe(segmenter)
        self.made_by += "+" + json.dumps(variant, sort_keys=True)
        self._about["options"] |= variant
        self._colours = list(label_colours(segmenter.labels).values())
        self._label_folders = label_folders(segmenter.labels)
        self._lock: threading.Lock | None = threading.Lock()
        make_folder(self.root)
        self._records: dict[str, Record] = {record["picture"]: record for record in earlier_records(self.root)}
        self.names = OutputNames({key: record["name"] for key, record in self._records.items()})
        self._append(None)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: a copy that writes images' files, but keeps no journal and knows no earlier runs."""
        here = {"root": self.root.absolute(), "journal": self.journal.absolute(), "results": self.results.absolute()}
        return {**self.__dict__, **here, "_lock": None, "_records": {}, "names": OutputNames({})}

    def is_complete(self, source: Path, overlays: bool) -> bool:
        """Whether an earlier run, with what would be used now, finished this very image and all is still there."""
        try:
            record = self.finished(source, file_identity(source))
        except InvalidImage:
            return False
        return record is not None and (
            not overlays or (record["overlay"] is not None and _is_whole(self.root / record["overlay"]))
        )

    def finished(self, source: Path, identity: list[int]) -> Record | None:
        """The entry of an image that an earlier run finished, with what would be used now; None if its masks are gone.

        `identity` is that of the image's file, which for a frame is its clip's.
        """
        record = self._records.get(str(source))
        if record is None or record["made_by"] != self.made_by or record["source"] != identity:
            return None
        return record if all(_is_whole(self.root / file) for file in files_of(record)) else None

    def shown(self, result: Prediction) -> Prediction:
        """The prediction as it is written and drawn here."""
        return result if self.absent else result.of_present()

    def write(
        self,
        source: Path,
        name: str,
        identity: list[int],
        result: Prediction,
        drawn: Image.Image | None,
        more: Mapping[str, Any] | None = None,
    ) -> Record:
        """Write an image's files, then its journal entry; may be called from several threads.

        `identity` is the image's when it was read; `more` goes into the entry. Raises `OutputError` where writing
        fails.
        """
        height, width = result.label_map.shape
        record: Record = {
            "picture": str(source),
            "name": name,
            "size": [width, height],
            **(more or {}),
            "label_map": f"labels/{name}.png",
            "overlay": None if drawn is None else f"overlays/{name}.jpg",
            "labels": {},
        }
        shown = self.shown(result)
        self.save(record["label_map"], index_image(shown.label_map, self._colours), "PNG")
        for label, mask in shown.masks.items():
            file, found = f"masks/{self._label_folders[label]}/{name}.png", result.masks[label]
            save_mask(self.root / file, mask, label, result.scores[label], compress_level=4)
            record["labels"][label] = {
                "score": round(result.scores[label], 4),
                "present": result.present[label],
                "area": round(float(np.count_nonzero(found)) / found.size, 6),
                "mask": file,
                **(self._write_objects(shown, label, name) if self.objects and label in shown.objects else {}),
            }
        if drawn is not None:
            self.save(record["overlay"], drawn, "JPEG")
        record |= {"made_by": self.made_by, "source": identity}
        self.accept(record)
        return record

    def _write_objects(self, shown: Prediction, label: str, name: str) -> dict[str, Any]:
        """Write a label's instance map; gives what the entry says of its objects."""
        found = shown.objects[label]
        if len(found) > _MOST_OBJECTS:
            log.warning("%s: %d regions of %r are too many to be objects: not counted", name, len(found), label)
            return {}
        file = f"objects/{self._label_folders[label]}/{name}.png"
        self.save(file, Image.fromarray(found.map.astype(np.uint16)), "PNG")
        return {"count": len(found), "instances": file, "objects": [one.as_json() for one in found]}

    def of_clip(self, clip: Path) -> list[Record]:
        """The entries of a clip's frames, of this run and of earlier ones."""
        return [r for r in self._records.values() if r["picture"].rpartition("#")[0] == str(clip)]

    def forget_frames(self, clip: Path, identity: list[int]) -> None:
        """Drop frames of another file that was at the clip's place, with what was written for them.

        What this run wrote over is not theirs any more.
        """
        of_clip = self.of_clip(clip)
        kept = {record["name"] for record in of_clip if record["source"] == identity}
        for record in (r for r in of_clip if r["source"] != identity):
            del self._records[record["picture"]]
            saved = [record["saved"]] if "saved" in record else []
            for file in [*files_of(record), *saved] if record["name"] not in kept else []:
                with suppress(OSError):
                    (self.root / file).unlink()

    def accept(self, record: Record) -> None:
        """Journal an image whose files are written: by `write`, here or in another process."""
        if self._lock is not None:
            self._append(record)
            self._records[record["picture"]] = record

    def save(self, file: str, image: Image.Image, kind: Encoding) -> None:
        """Save an image as PNG or JPEG at a path in this folder, atomically; raises `OutputError`."""
        save_image(self.root / file, image, kind, **({"quality": 90} if kind == "JPEG" else {"compress_level": 4}))

    def _append(self, record: Record | None) -> None:
        """A line in the journal; an empty one without a record, after what a killed run may have left half written."""
        try:
            with self._lock or nullcontext(), self.journal.open("a", encoding="utf-8") as file:
                file.write(("" if record is None else json.dumps(record)) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {self.journal}: {error.strerror or error}; choose another folder"
            ) from error

    @property
    def entries(self) -> list[Record]:
        """Those of results.json: of this run, and of earlier ones with the same model, examples and options."""
        return [record for record in self._records.values() if record["made_by"] == self.made_by]

    def finish(
        self, sources: Sequence[Path], errors: Sequence[tuple[str, str]], pixel_size: float | None = None
    ) -> dict[str, int]:
        """Write results.json and the tables of objects, and drop the journal, which is in it then.

        Gives the objects of each label that is counted; raises `OutputError`.
        """
        order = {str(source): i for i, source in enumerate(sources)}
        for image, _ in errors:
            self._records.pop(image, None)
        entries = sorted(self.entries, key=lambda record: order.get(record["picture"], len(order)))
        content = {
            "format": FORMAT,
            **self._about,
            "pictures": entries,
            "errors": [{"picture": image, "error": error} for image, error in errors],
        }
        write_text(self.results, json.dumps(content, indent=1) + "\n")
        counts = write_tables(self.root, entries, pixel_size)
        self.journal.unlink(missing_ok=True)
        return counts

    def set_aside(self) -> int:
        """Move files that results.json does not list into `earlier/`; gives how many. Raises `OutputError`.

        They are of labels, images and examples of earlier runs, and look like this run's.
        """
        kept: set[str] = set()
        for record in self.entries:
            kept |= set(files_of(record))
            kept |= {record["overlay"] or "", f"overlays/{record['name'].rpartition('-')[0]}.mp4"}
        moved = 0
        for file in [file for folder in FOLDERS for file in sorted((self.root / folder).rglob("*")) if file.is_file()]:
            name = file.relative_to(self.root)
            if name.as_posix() in kept:
                continue
            try:
                os.replace(file, make_folder(self.root / EARLIER / name.parent) / name.name)
            except OSError as error:
                raise OutputError(f"cannot move {file} aside: {error.strerror or error}; remove it") from error
            with suppress(OSError):  # others are in it
                file.parent.rmdir()
            moved += 1
        return moved


def _describe(segmenter: Segmenter) -> dict[str, Any]:
    return {
        "model": {
            **(segmenter.source or {}),
            "method": segmenter.method.name,
            "fingerprint": segmenter.model_fingerprint,
        },
        "support": {label: segmenter.shots(label) for label in segmenter.labels},
        "options": {
            "input_sizes": segmenter.input_sizes,
            "flips": segmenter.tta_flip,
            "precision": str(segmenter.method.dtype).removeprefix("torch."),
            "presence_threshold": segmenter.presence_threshold,
            "presence_threshold_of": dict(segmenter.presence_rule.by_label),
        },
    }


def file_identity(source: Path) -> list[int]:
    """Length and time of change: an image with other ones is another image."""
    try:
        status = source.stat()
    except OSError as error:
        raise InvalidImage(f"{source}: {error.strerror or error}; check the path of the image") from error
    return [status.st_size, status.st_mtime_ns]


def _is_whole(file: Path) -> bool:
    """Whether it is there; a power cut can leave an empty file behind."""
    try:
        status = file.stat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0
