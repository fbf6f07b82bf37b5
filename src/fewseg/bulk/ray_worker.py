"""What runs in each worker process of Ray: a model, and the threads that feed it and write what it finds."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fewseg.batch_outputs import OutputFolder
from fewseg.bulk.pictures import PictureWork, Task
from fewseg.bulk.threads import ThreadPlan, ThreadsEngine
from fewseg.errors import FewsegError, OutputError
from fewseg.segmenter import Segmenter

log = logging.getLogger(__name__)

FOUND: Final = "found"
"""A row with a picture's record."""
FAILED: Final = "failed"
"""A row with what is wrong with a picture."""
FATAL: Final = "fatal"
"""A row with an error that ends the whole run."""


@dataclass(frozen=True)
class WorkerState:
    """What every worker gets, once for each machine."""

    segmenter: Segmenter
    """Taught; on the CPU."""
    folder: OutputFolder
    overlays: bool
    plan: ThreadPlan
    device: str
    """Where the workers compute."""


class RayWorker:
    """A stateful actor of Ray Data: made once, then given parts of the list of pictures."""

    def __init__(self, state: Any) -> None:
        """`state` is a `WorkerState`, or Ray's reference to one."""
        import ray

        got = ray.get(state) if isinstance(state, ray.ObjectRef) else state
        assert isinstance(got, WorkerState)
        self.folder = got.folder
        work = PictureWork(got.segmenter.on(got.device), got.folder, got.overlays)
        self.engine = ThreadsEngine(work, got.plan)

    def __call__(self, part: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Segment the pictures of a part: column `task` holds JSON of place, path and name; column `row`, outcomes."""
        places, tasks = [], []
        for text in part["task"]:
            place, source, name = json.loads(text)
            places.append(place)
            tasks.append(Task(Path(source), name))
        return {"row": np.array([json.dumps(row) for row in self._rows(places, tasks)], dtype=object)}

    def _rows(self, places: Sequence[int], tasks: Sequence[Task]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        place_of = {task.source: place for place, task in zip(places, tasks, strict=True)}
        try:
            self._require_folder()
            for source, outcome in self.engine.run(tasks):
                if isinstance(outcome, FewsegError):
                    rows.append({"place": place_of[source], "kind": FAILED, "error": str(outcome)})
                else:
                    rows.append({"place": place_of[source], "kind": FOUND, "record": outcome})
        except FewsegError as error:
            rows.append({"place": places[0], "kind": FATAL, "type": type(error).__name__, "error": str(error)})
        return rows

    def _require_folder(self) -> None:
        """Raise `OutputError` unless this machine sees the output folder that the run was started with."""
        if not self.folder.journal.exists():
            raise OutputError(
                f"{self.folder.root} is not the run's folder on the Ray worker {socket.gethostname()}: "
                "give an absolute path that all machines share"
            )
