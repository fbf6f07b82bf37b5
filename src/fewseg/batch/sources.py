"""Where the images of a run come from: files, whole or in tiles, and the frames of videos.

A source names what it will give, skips what an earlier run finished, and gives what became of each image; the runner
(`fewseg.batch.files`) counts, reports and lists them all alike.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fewseg.batch.find_images import find_images
from fewseg.batch.ray_engine import RayEngine
from fewseg.batch.run import Run, Source
from fewseg.batch.steps import ImageSteps, Outcome, Task, TilesEngine
from fewseg.batch.threads import ThreadPlan, ThreadsEngine
from fewseg.batch.video import ClipFrames
from fewseg.images.video import Clip, is_video, open_clip


class ImageFiles:
    """Image files, which an engine segments."""

    def __init__(self, run: Run, files: Sequence[Path]) -> None:
        self.keys, self.total, self._run = files, len(files), run
        todo = [f for f in files if run.options.overwrite or not run.folder.is_complete(f, run.options.overlays)]
        self.skipped = len(files) - len(todo)
        # Names are assigned up front, so they do not depend on the order in which images finish.
        self._tasks = [Task(file, run.folder.names.of(file)) for file in todo]

    def outcomes(self) -> Generator[Outcome, None, None]:
        return self._engine().run(self._tasks)

    def _engine(self) -> ThreadsEngine | RayEngine | TilesEngine:
        segmenter, folder, options = self._run.segmenter, self._run.folder, self._run.options
        if options.tiles is not None:
            return TilesEngine(segmenter, folder, options.overlays, options.tiles, options.batch_size)
        steps = ImageSteps(segmenter, folder, options.overlays)
        if options.engine == "ray":
            return RayEngine(steps, options, self.total)
        return ThreadsEngine(steps, ThreadPlan.of(options, segmenter.method.device, self.total))


@dataclass(frozen=True)
class Queries:
    """The files that a run was asked for."""

    files: Sequence[Path]
    """Images."""
    clips: Sequence[Clip]
    """Videos."""

    @classmethod
    def find(
        cls, queries: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str], masks: Iterable[Path]
    ) -> Queries:
        """Those that are meant by files and folders; raises `InvalidImage`, and `InvalidOption` as `find_images`."""
        videos = [query for query in queries if is_video(query)]
        others = [query for query in queries if not is_video(query)]
        files = find_images(others, out, masks) if others or not videos else []
        clips = dict.fromkeys(os.path.abspath(video) for video in videos)
        return cls(files, [open_clip(Path(clip)) for clip in clips])

    def sources(self, run: Run) -> list[Source]:
        """Images first, for their names and those of frames must not meet."""
        images: list[Source] = [ImageFiles(run, self.files)] if self.files else []
        return [*images, *(ClipFrames(run, clip) for clip in self.clips)]
