"""The frames of a video as a source of a run: masks of every frame, and the clip with the masks drawn on it.

    results.json               an entry a frame: number, seconds, scores, areas
    labels/CLIP-000012.png     label map of frame 12 (the first is 0)
    masks/LABEL/CLIP-000012.png
    overlays/CLIP.mp4          the masks on the clip
    frames/CLIP-000012.jpg     the frame itself, where that is asked for

Frames are decoded one after the other and a handful is in memory at a time, however long the clip. Every finished
frame is in the journal: a run that was killed goes on behind it, decoding but not segmenting what is finished. Every
frame is segmented for itself, from the same examples.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fewseg.batch.earlier import Record
from fewseg.batch.output_folder import file_identity
from fewseg.batch.run import Run
from fewseg.batch.steps import Outcome, fitting
from fewseg.core.errors import InvalidImage, InvalidMask
from fewseg.core.files import make_folder, replacing
from fewseg.core.types import Prediction
from fewseg.images import decode as decoding
from fewseg.images.draw import overlay_of
from fewseg.images.video import LONGEST_SIDE, Clip, ClipWriter, Frame, read_frames, what_was_written

_Result: TypeAlias = tuple[Frame, Prediction, Record | None]
"""A frame, its masks, and its entry where it was segmented now."""


class ClipFrames:
    """Every N-th frame of a clip."""

    def __init__(self, run: Run, clip: Clip) -> None:
        self.segmenter, self.folder, self.options, self.clip = run.segmenter, run.folder, run.options, clip
        self.stride = int(run.options.frame_stride)
        self.batch_size = run.options.batch_size or run.segmenter.default_batch_size
        self.identity = file_identity(clip.path)
        self.name = run.folder.names.of_clip(clip.path)
        # What the clip with the masks was made from: kept in it, so that it is known to be up to date.
        self.made_from = f"fewseg {run.folder.made_by} {self.identity} {self.stride}"
        self.target = run.folder.root / "overlays" / f"{self.name}.mp4"
        self.keys: list[Path] = self._finished_before() if run.options.overlays and not run.options.overwrite else []
        self.skipped = len(self.keys)
        self.total = self.skipped or -(-clip.frames // self.stride)

    def outcomes(self) -> Generator[Outcome, None, None]:
        """What became of each frame, in order, and then of the clip if parts of it cannot be decoded."""
        if self.skipped:
            return
        damage: list[str] = []
        with ExitStack() as stack:
            video = None
            if self.options.overlays:
                make_folder(self.target.parent)
                temporary = stack.enter_context(replacing(self.target))
                video = stack.enter_context(ClipWriter(temporary, self.clip, self.stride, self.made_from))
            for frame, result, record in self._results(damage):
                if video is not None:
                    drawn = overlay_of(frame.image, self.folder.shown(result), side=LONGEST_SIDE)
                    video.add(drawn, frame.seconds)
                yield self._key(frame.number), record
            self.folder.forget_frames(self.clip.path, self.identity)
        if damage:
            parts = f"{len(damage)} part{'s' if len(damage) > 1 else ''}"
            what = f"{self.clip.path}: {parts} of it cannot be decoded ({damage[0]}) and left out"
            yield self.clip.path, InvalidImage(what)

    def _finished_before(self) -> list[Path]:
        """All frames, if all are finished and so is the clip with the masks; else none."""
        if not self.target.is_file():
            return []
        made_from, count = what_was_written(self.target)
        frames = [self._key(number * self.stride) for number in range(count)]
        whole = made_from == self.made_from and all(self._finished(frame) for frame in frames)
        if self.options.save_frames and not all(self._is_saved(r) for r in self.folder.of_clip(self.clip.path)):
            return []
        return frames if whole else []

    def _results(self, damage: list[str]) -> Iterator[_Result]:
        """Every frame that is wanted with its masks, of this run or an earlier one."""
        batch: list[Frame] = []
        for frame in read_frames(self.clip.path, damage):
            key = self._key(frame.number)
            if frame.number % self.stride:
                self._save_listed(frame, key)
                continue
            self.keys.append(key)
            record = None if self.options.overwrite else self._finished(key)
            if record is None:
                batch.append(frame)
                if len(batch) == self.batch_size:
                    yield from self._segment(batch)
                    batch = []
                continue
            yield from self._segment(batch)  # in order
            batch = []
            yield frame, self._earlier(record), None
        yield from self._segment(batch)

    def _segment(self, frames: Sequence[Frame]) -> Iterator[_Result]:
        if not frames:
            return
        with fitting(len(frames), "frames", self.segmenter):
            results = self.segmenter.segment_batch(
                [frame.image for frame in frames], batch_size=self.batch_size, probabilities=False
            )
        for frame, result in zip(frames, results, strict=True):
            more: dict[str, Any] = {"frame": frame.number, "seconds": round(frame.seconds, 4)}
            if self.options.save_frames:
                more["saved"] = self._save(frame)
            key, name = self._key(frame.number), self._frame_name(frame)
            yield frame, result, self.folder.write(key, name, self.identity, result, None, more)

    def _finished(self, key: Path) -> Record | None:
        record = self.folder.finished(key, self.identity)
        if record is None or (self.options.save_frames and not self._is_saved(record)):
            return None
        return record

    def _save_listed(self, frame: Frame, key: Path) -> None:
        """Save a frame that only an earlier run wanted: it is listed too, and so will be asked for."""
        record = self.folder.finished(key, self.identity) if self.options.save_frames else None
        if record is not None and not self._is_saved(record):
            self.folder.accept({**record, "saved": self._save(frame)})

    def _is_saved(self, record: Record) -> bool:
        return (self.folder.root / record.get("saved", "-")).is_file()

    def _save(self, frame: Frame) -> str:
        """Save a frame; gives its place in the folder."""
        file = f"frames/{self._frame_name(frame)}.jpg"
        self.folder.save(file, frame.image, "JPEG")
        return file

    def _frame_name(self, frame: Frame) -> str:
        return f"{self.name}-{frame.number:06d}"

    def _key(self, number: int) -> Path:
        return Path(f"{self.clip.path}#{number}")

    def _earlier(self, record: Record) -> Prediction:
        """The result of an earlier run, as far as drawing needs it."""
        path = self.folder.root / record["label_map"]
        with decoding.open_file(path, "mask", InvalidMask) as image:
            label_map = np.asarray(decoding.decode(image, str(path), InvalidMask)).astype(np.uint16)
        labels = record["labels"]
        masks = {label: label_map == i for i, label in enumerate(labels, 1)}
        scores = {label: float(about["score"]) for label, about in labels.items()}
        return Prediction(masks, {}, label_map, scores, {k: bool(about["present"]) for k, about in labels.items()})
