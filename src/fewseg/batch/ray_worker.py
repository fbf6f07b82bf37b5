"""What runs in each worker process of Ray: a model, and the threads that feed it and write what it finds."""

from __future__ import annotations

import atexit
import json
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fewseg.batch.attempts import Attempts
from fewseg.batch.output_folder import OutputFolder
from fewseg.batch.steps import ImageSteps, Outcome, Task
from fewseg.batch.threads import ThreadPlan, ThreadsEngine
from fewseg.core.errors import FewsegError, InvalidImage, OutputError, WorkerError, one_line
from fewseg.images.depth import set_range
from fewseg.inference.segmenter import Segmenter

FOUND: Final = "found"
"""A row with an image's record."""
FAILED: Final = "failed"
"""A row with what is wrong with an image."""
FATAL: Final = "fatal"
"""A row with an error that ends the whole run."""

TOGETHER: Final = 2
"""How often the images of a part are tried together, before each is tried alone to find the one that kills."""
ALONE: Final = 2
"""How often an image is tried alone before it counts as one that cannot be used."""


@dataclass(frozen=True)
class WorkerState:
    """What every worker gets, once for each machine."""

    segmenter: Segmenter
    """Taught; on the CPU."""
    folder: OutputFolder
    attempts: Attempts
    overlays: bool
    plan: ThreadPlan
    device: str
    """Where the workers compute."""
    range: tuple[float, float] | None = None
    """See `fewseg.images.set_range`."""


class RayWorker:
    """A stateful actor of Ray Data: made once, then given parts of the list of images."""

    def __init__(self, state: Any, paths: Sequence[str] = ()) -> None:
        """`state` is Ray's reference to a `WorkerState`; `paths` are where the modules of its classes are found.

        What goes wrong here is told with the first part: an actor that fails to start is started again and again.
        """
        if "RAY_RAYLET_PID" in os.environ:  # a process of Ray's, whose C++ now and then hangs when it is taken apart
            atexit.register(os._exit, 0)
        self.problem: FewsegError | None = None
        try:
            import ray

            sys.path += [path for path in paths if path not in sys.path and os.path.isdir(path)]
            self._set_up(ray.get(state))
        except FewsegError as error:
            self.problem = error
        except Exception as error:
            last = one_line(error).split(" traceback: ")[0]
            self.problem = WorkerError(
                f"a Ray worker cannot start on {socket.gethostname()} ({last}): "
                "install the same fewseg, and your own modules, on all machines"
            )

    def _set_up(self, state: WorkerState) -> None:
        self.folder, self.attempts = state.folder, state.attempts
        if not self.folder.journal.exists():
            raise OutputError(
                f"{self.folder.root} is not this run's folder on the Ray worker {socket.gethostname()}: "
                "give a path that all machines share"
            )
        set_range(state.range)
        work = ImageSteps(state.segmenter.to(state.device), state.folder, state.overlays)
        self.engine = ThreadsEngine(work, state.plan)

    def __call__(self, part: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Segment a part: column `task` holds JSON of place, path and name; column `row` then JSON of outcomes."""
        given = [json.loads(text) for text in part["task"]]
        places = {source: place for place, source, _ in given}
        tasks = [Task(Path(source), name) for _, source, name in given]
        rows: list[dict[str, Any]] = []
        try:
            if self.problem is not None:
                raise self.problem
            for source, outcome in self._outcomes(f"part-{given[0][0]}", tasks):
                row: dict[str, Any] = {"kind": FOUND, "record": outcome}
                if isinstance(outcome, FewsegError):
                    row = {"kind": FAILED, "error": str(outcome)}
                rows.append({"place": places[str(source)], **row})
        except FewsegError as error:
            rows.append({"place": given[0][0], "kind": FATAL, "type": type(error).__name__, "error": str(error)})
        return {"row": np.array([json.dumps(row) for row in rows], dtype=object)}

    def _outcomes(self, part: str, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """What became of each image; one that kills the process again and again is found out and left out."""
        if self.attempts.begin(part) <= TOGETHER:
            yield from self.engine.run(tasks)
        else:
            for number, task in enumerate(tasks):
                yield from self._alone(f"{part}-{number}", task)
        self.attempts.end(part)

    def _alone(self, name: str, task: Task) -> Iterator[Outcome]:
        if self.attempts.begin(name) <= ALONE:
            yield from self.engine.run([task])
            self.attempts.end(name)
        else:
            yield (
                task.source,
                InvalidImage(
                    f"{task.source} ended the process that segmented it, {ALONE} times: make it smaller, or save it "
                    "again as PNG"
                ),
            )
