"""Segmenting video files: masks of every frame, and the clip with the masks drawn on it.

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

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from fewseg.batch.files import BatchReport
from fewseg.batch.output_folder import OutputFolder, Record, file_identity
from fewseg.core.errors import InvalidMask, InvalidOption
from fewseg.core.files import make_folder, replacing
from fewseg.core.progress import ProgressCallback
from fewseg.core.types import Prediction
from fewseg.images import decode as decoding
from fewseg.images.draw import overlay_of
from fewseg.images.video import LONGEST_SIDE, Clip, ClipWriter, Frame, open_clip, read_frames, what_was_written
from fewseg.inference.segmenter import Segmenter


def segment_video(
    segmenter: Segmenter,
    clip: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    every: int = 1,
    overlays: bool = True,
    overwrite: bool = False,
    batch_size: int = 0,
    save_frames: bool = False,
    errors: Sequence[tuple[str, str]] = (),
    progress: ProgressCallback | None = None,
) -> BatchReport:
    """Segment the frames of a video file into `out`; see the top of this module for what is written there.

    Frames that an earlier run finished with the same clip, model, examples and options are skipped.

    Args:
        segmenter: taught with at least one label.
        clip: the video file.
        out: the output folder, made if missing.
        every: segment every so many-th frame only; the clip with the masks has only those.
        overlays: also write the clip with the masks on it.
        overwrite: do frames again that are finished already.
        batch_size: frames that go through the model together; 0 chooses: 8 on a GPU, 1 else.
        save_frames: also save the frames, as JPEG: formats with images beside their annotations need them.
        errors: of clips that the same command segmented before, to be reported with this one's.
        progress: called after every frame with (done, total, name).

    Raises:
        InvalidSupport: nothing was taught. InvalidImage: the clip cannot be read. InvalidOption: an impossible option,
        or PyAV is not installed. OutputError: results cannot be written.
    """
    if every < 1 or batch_size < 0 or every != int(every):
        raise InvalidOption(f"every {every}, batch size {batch_size}: give whole numbers from 1 (batch size 0 chooses)")
    segmenter.require_labels()
    about = open_clip(Path(os.path.abspath(clip)))
    run = _Run(segmenter, about, out, int(every), overlays, overwrite, batch_size, save_frames)
    run.report.errors += errors
    return run.all(progress)


class _Run:
    """One call of `segment_video`."""

    def __init__(
        self,
        segmenter: Segmenter,
        clip: Clip,
        out: str | os.PathLike[str],
        every: int,
        overlays: bool,
        overwrite: bool,
        batch_size: int,
        save_frames: bool,
    ) -> None:
        self.segmenter, self.clip, self.every, self.overlays = segmenter, clip, every, overlays
        self.overwrite, self.save_frames = overwrite, save_frames
        self.batch_size = batch_size or segmenter.default_batch_size
        self.folder = OutputFolder(out, segmenter)
        self.identity = file_identity(clip.path)
        self.name = self.folder.name_for_clip(clip.path)
        self.report = BatchReport(self.folder.results)
        self.sources: list[Path] = []
        self.damage: list[str] = []
        # What the clip with the masks was made from: kept in it, so that it is known to be up to date.
        self.made_from = f"fewseg {segmenter.fingerprint} {self.identity} {every}"
        self.target = self.folder.root / "overlays" / f"{self.name}.mp4"

    def all(self, progress: ProgressCallback | None) -> BatchReport:
        total = -(-self.clip.frames // self.every)
        start = time.monotonic()
        with ExitStack() as stack:
            stack.callback(lambda: self.folder.finish(self.sources, self.report.errors))
            if self.overlays and not self.overwrite and (frames := self._up_to_date()):
                self.sources = frames
                self.report.skipped = len(frames)
                if progress is not None:
                    progress(len(frames), len(frames), self.name)
                return self.report
            video = None
            if self.overlays:
                make_folder(self.target.parent)
                temporary = stack.enter_context(replacing(self.target))
                video = stack.enter_context(ClipWriter(temporary, self.clip, self.every, self.made_from))
            for frame, found in self._found():
                if video is not None:
                    video.add(overlay_of(frame.image, found, LONGEST_SIDE))
                self.report.seconds = time.monotonic() - start
                if progress is not None:
                    done = self.report.done + self.report.skipped
                    progress(done, max(total, done), self._frame_name(frame))
            if self.damage:
                parts = f"{len(self.damage)} part{'s' if len(self.damage) > 1 else ''}"
                what = f"{self.clip.path}: {parts} of it cannot be decoded ({self.damage[0]}) and left out"
                self.report.errors.append((str(self.clip.path), what))
            self.folder.forget_frames(self.clip.path, self.identity)
        return self.report

    def _up_to_date(self) -> list[Path]:
        """All frames, if all are finished and so is the clip with the masks; else none."""
        if not self.target.is_file():
            return []
        made_from, count = what_was_written(self.target)
        frames = [self._source(number * self.every) for number in range(count)]
        whole = made_from == self.made_from and all(self._finished(f) for f in frames)
        if self.save_frames and not all(self._is_saved(r) for r in self.folder.of_clip(self.clip.path)):
            return []
        return frames if whole else []

    def _found(self) -> Iterator[tuple[Frame, Prediction]]:
        """Every frame that is wanted with its result, found now or earlier."""
        batch: list[Frame] = []
        for frame in read_frames(self.clip.path, self.damage):
            source = self._source(frame.number)
            if frame.number % self.every:
                self._save_listed(frame, source)
                continue
            self.sources.append(source)
            record = None if self.overwrite else self._finished(source)
            if record is None:
                batch.append(frame)
                if len(batch) == self.batch_size:
                    yield from self._segment(batch)
                    batch = []
                continue
            yield from self._segment(batch)  # in order
            batch = []
            self.report.skipped += 1
            yield frame, self._earlier(record)
        yield from self._segment(batch)

    def _finished(self, source: Path) -> Record | None:
        record = self.folder.finished(source, self.identity)
        if record is None or (self.save_frames and not self._is_saved(record)):
            return None
        return record

    def _save_listed(self, frame: Frame, source: Path) -> None:
        """Save a frame that only an earlier run wanted: it is listed too, and so will be asked for."""
        record = self.folder.finished(source, self.identity) if self.save_frames else None
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

    def _source(self, number: int) -> Path:
        return Path(f"{self.clip.path}#{number}")

    def _segment(self, frames: Sequence[Frame]) -> Iterator[tuple[Frame, Prediction]]:
        if not frames:
            return
        found = self.segmenter.segment_batch(
            [frame.image for frame in frames], batch_size=self.batch_size, probabilities=False
        )
        for frame, prediction in zip(frames, found, strict=True):
            more: dict[str, Any] = {"frame": frame.number, "seconds": round(frame.seconds, 4)}
            if self.save_frames:
                more["saved"] = self._save(frame)
            source, name = self._source(frame.number), self._frame_name(frame)
            self.folder.write(source, name, self.identity, prediction, None, more)
            self.report.done += 1
            yield frame, prediction

    def _earlier(self, record: Record) -> Prediction:
        """What an earlier run found, as far as drawing needs it."""
        path = self.folder.root / record["label_map"]
        with decoding.open_file(path, "mask", InvalidMask) as image:
            label_map = np.asarray(decoding.decode(image, str(path), InvalidMask)).astype(np.uint16)
        labels = record["labels"]
        masks = {label: label_map == i for i, label in enumerate(labels, 1)}
        scores = {label: float(about["score"]) for label, about in labels.items()}
        return Prediction(masks, {}, label_map, scores, {k: bool(about["present"]) for k, about in labels.items()})
