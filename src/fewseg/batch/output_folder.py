"""The folder that segmented files are written to.

    results.json          what was found in which image, by which model and examples, and what could not be read
    labels/NAME.png       label map: 0 background, i the i-th label (palette image; 16-bit above 255 labels)
    masks/LABEL/NAME.png  the label's mask, 0 and 255; labels may overlap here
    overlays/NAME.jpg     the masks on the image
    journal.jsonl         finished images, while a run is under way or after it was interrupted

Everything but the journal is written to a temporary file that takes the final name when complete. NAME is the
image's name without ending, with its folder's name or a number where two images would share one.
"""

from __future__ import annotations

import io
import json
import logging
import os
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import NoneType
from typing import Any, Final, TypeAlias

import numpy as np
from PIL import Image

from fewseg.core.errors import InvalidImage, OutputError
from fewseg.core.files import cut_name, folder_name, make_folder, replacing, write_text
from fewseg.core.types import Prediction
from fewseg.images.draw import label_colours
from fewseg.inference.segmenter import Segmenter

log = logging.getLogger(__name__)

Record: TypeAlias = dict[str, Any]
"""An image's entry in results.json."""

_FORMAT: Final = "fewseg.results.v1"
FOLDERS: Final = ("labels", "masks", "overlays")


class OutputFolder:
    """The output folder of one run, which knows what earlier runs left there."""

    def __init__(
        self, root: str | os.PathLike[str], segmenter: Segmenter, variant: Mapping[str, Any] | None = None
    ) -> None:
        """Make or open the folder; raises `OutputError` where that fails or it belongs to something else.

        `variant` are further choices (JSON values) that results depend on, beside the segmenter's.
        """
        self.root = Path(root)
        self.results, self.journal = self.root / "results.json", self.root / "journal.jsonl"
        self._made_by = segmenter.fingerprint
        self._about = _describe(segmenter)
        if variant:
            self._made_by += "+" + json.dumps(variant, sort_keys=True)
            self._about["options"] |= variant
        self._colours = [colour for rgb in label_colours(segmenter.labels).values() for colour in rgb]
        self._label_folders = _folder_names(segmenter.labels)
        self._lock: threading.Lock | None = threading.Lock()
        make_folder(self.root)
        self._records: dict[str, Record] = {record["picture"]: record for record in self._earlier()}
        self._names: dict[str, str] = {key: record["name"] for key, record in self._records.items()}
        self._taken = {name.casefold() for name in self._names.values()}
        self._append(None)

    def __getstate__(self) -> dict[str, Any]:
        """For another process: a copy that writes images' files, but keeps no journal and knows no earlier runs."""
        here = {"root": self.root.absolute(), "journal": self.journal.absolute(), "results": self.results.absolute()}
        return {**self.__dict__, **here, "_lock": None, "_records": {}, "_names": {}, "_taken": set()}

    def _earlier(self) -> Iterator[Record]:
        """Entries of results.json, then those of the journal, which are newer."""
        ours = self.journal.exists()
        if self.results.exists():
            ours = True
            yield from _whole(self._listed(), self.results)
        if not ours:
            foreign = [name for name in FOLDERS if (self.root / name).is_dir() and any((self.root / name).iterdir())]
            if foreign:
                raise OutputError(
                    f"{self.root / foreign[0]} holds files that are not ours: choose another output folder"
                )
        if self.journal.exists():
            yield from _whole(self._journalled(), self.journal)

    def _listed(self) -> list[Any]:
        """What results.json lists; nothing if it is ours and damaged. Raises `OutputError` if it is not ours."""
        foreign = OutputError(f"{self.results} is not one of ours: choose another output folder")
        try:
            text = self.results.read_text("utf-8", errors="replace")
        except OSError:
            raise foreign from None
        try:
            content = json.loads(text)
        except ValueError:
            if _FORMAT not in text[:100]:
                raise foreign from None
            log.warning("%s is damaged: starting anew", self.results)
            return []
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise foreign
        listed = content.get("pictures")
        if not isinstance(listed, list):
            log.warning("%s lists no images: starting anew", self.results)
            return []
        return listed

    def _journalled(self) -> Iterator[Any]:
        try:
            lines = self.journal.read_text("utf-8", errors="replace").splitlines()
        except OSError as error:
            raise OutputError(
                f"cannot read {self.journal}: {error.strerror or error}; choose another folder"
            ) from error
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:  # an empty line, or the last one of a run that was killed
                continue

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
        if record is None or record["made_by"] != self._made_by or record["source"] != identity:
            return None
        files = [record["label_map"], *(label["mask"] for label in record["labels"].values())]
        return record if all(_is_whole(self.root / file) for file in files) else None

    def name_for(self, source: Path) -> str:
        """The image's name in this folder: the same in every run, different from all others."""
        key = str(source)
        if key not in self._names:
            candidates = _candidates(source)
            name = next(name for name in candidates if name.casefold() not in self._taken)
            self._names[key] = name
            self._taken.add(name.casefold())
        return self._names[key]

    def name_for_clip(self, clip: Path) -> str:
        """The beginning of the names of a clip's frames, which end in `-NUMBER`: the same in every run."""
        known = {image.rpartition("#")[0]: name.rpartition("-")[0] for image, name in self._names.items()}
        if str(clip) in known:
            return known[str(clip)]
        taken = {name.rpartition("-")[0].casefold() for name in self._names.values()}  # images' too: `a-000000.png`
        return next(name for name in _candidates(clip) if name.casefold() not in taken)

    def write(
        self,
        source: Path,
        name: str,
        identity: list[int],
        found: Prediction,
        drawn: Image.Image | None,
        more: Mapping[str, Any] | None = None,
    ) -> Record:
        """Write an image's files, then its journal entry; may be called from several threads.

        `identity` is the image's when it was read; `more` goes into the entry. Raises `OutputError` where writing
        fails.
        """
        height, width = found.label_map.shape
        record: Record = {
            "picture": str(source),
            "name": name,
            "size": [width, height],
            **(more or {}),
            "label_map": f"labels/{name}.png",
            "overlay": None if drawn is None else f"overlays/{name}.jpg",
            "labels": {},
        }
        self.save(record["label_map"], self._index_image(found.label_map), "PNG")
        for label, mask in found.masks.items():
            file = f"masks/{self._label_folders[label]}/{name}.png"
            self.save(file, Image.fromarray(mask.view(np.uint8) * np.uint8(255)), "PNG")
            record["labels"][label] = {
                "score": round(found.scores[label], 4),
                "present": found.present[label],
                "area": round(float(np.count_nonzero(mask)) / mask.size, 6),
                "mask": file,
            }
        if drawn is not None:
            self.save(record["overlay"], drawn, "JPEG")
        record |= {"made_by": self._made_by, "source": identity}
        self.accept(record)
        return record

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
            masks = [label["mask"] for label in record["labels"].values()]
            for file in [record["label_map"], *masks, *saved] if record["name"] not in kept else []:
                with suppress(OSError):
                    (self.root / file).unlink()

    def accept(self, record: Record) -> None:
        """Journal an image whose files are written: by `write`, here or in another process."""
        if self._lock is not None:
            self._append(record)
            self._records[record["picture"]] = record

    def _index_image(self, label_map: np.ndarray) -> Image.Image:
        if len(self._label_folders) > 255:
            return Image.fromarray(label_map)
        image = Image.fromarray(label_map.astype(np.uint8))
        image.putpalette([0, 0, 0, *self._colours])
        return image

    def save(self, file: str, image: Image.Image, kind: str) -> None:
        """Save an image as PNG or JPEG at a path in this folder, atomically; raises `OutputError`."""
        path = self.root / file
        make_folder(path.parent)
        # Through memory: Pillow's own encoders report a full disk as "encoder error -2".
        encoded = io.BytesIO()
        image.save(encoded, kind, **({"quality": 90} if kind == "JPEG" else {"compress_level": 4}))
        with replacing(path) as temporary:
            temporary.write_bytes(encoded.getbuffer())

    def _append(self, record: Record | None) -> None:
        """A line in the journal; an empty one without a record, after what a killed run may have left half written."""
        try:
            with self._lock or nullcontext(), self.journal.open("a", encoding="utf-8") as file:
                file.write(("" if record is None else json.dumps(record)) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {self.journal}: {error.strerror or error}; choose another folder"
            ) from error

    def finish(self, sources: Sequence[Path], errors: Sequence[tuple[str, str]]) -> None:
        """Write results.json and drop the journal, which is in it then; raises `OutputError`.

        Images of earlier runs stay listed while model, examples and options are the same.
        """
        order = {str(source): i for i, source in enumerate(sources)}
        mine = [r for r in self._records.values() if r["made_by"] == self._made_by]
        failed = {image for image, _ in errors}
        mine = [r for r in mine if r["picture"] not in failed]
        mine.sort(key=lambda r: order.get(r["picture"], len(order)))
        content = {
            "format": _FORMAT,
            **self._about,
            "pictures": mine,
            "errors": [{"picture": image, "error": error} for image, error in errors],
        }
        write_text(self.results, json.dumps(content, indent=1) + "\n")
        self.journal.unlink(missing_ok=True)


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
        },
    }


def _whole(entries: Iterable[Any], file: Path) -> Iterator[Record]:
    """The entries that have all that is looked at here; the images of others are done again."""
    kinds = {"picture": str, "name": str, "made_by": str, "source": list, "label_map": str, "labels": dict}
    for entry in entries:
        known = isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())
        if (
            known
            and isinstance(entry.get("overlay"), (str, NoneType))
            and all(
                isinstance(label, dict) and isinstance(label.get("mask"), str) for label in entry["labels"].values()
            )
        ):
            yield entry
        else:
            log.warning("%s has a damaged entry, which is left out: %.80r", file, entry)


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


def _candidates(source: Path) -> Iterator[str]:
    stem, parent = cut_name(source.stem), source.parent.name
    yield from (stem, cut_name(f"{parent}_{source.stem}"), cut_name(f"{parent}_{source.name.replace('.', '_')}"))
    number = 2
    while True:
        yield f"{stem}_{number}"
        number += 1


def _folder_names(labels: Iterable[str]) -> dict[str, str]:
    taken: set[str] = set()
    return {label: folder_name(label, taken) for label in labels}
