"""The record of a run: `metrics.jsonl` always, TensorBoard events beside it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch.utils.tensorboard import SummaryWriter

from fewseg.core.errors import OutputError
from fewseg.core.files import write_text

log = logging.getLogger(__name__)

FILE_NAME = "metrics.jsonl"


class MetricsLog:
    """Appends lines; a resumed run first drops the lines written after the checkpoint it goes on from.

    Args:
        folder: where `metrics.jsonl` and `tensorboard/` go.
        step: the step that the run goes on from; 0 for a new one.
        tensorboard: write events too.

    Raises:
        OutputError: a file cannot be written.
    """

    def __init__(self, folder: Path, step: int, *, tensorboard: bool) -> None:
        self.path = folder / FILE_NAME
        kept = [line for line in read_metrics(folder) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        events = folder / "tensorboard"
        with _writing(events):
            self._events = SummaryWriter(str(events), purge_step=step + 1) if tensorboard else None
        with _writing(self.path):
            self._file = self.path.open("a", encoding="utf-8")

    def add(self, step: int, **values: Any) -> None:
        """One line; the numbers among the values also as TensorBoard scalars."""
        with _writing(self.path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        if self._events is not None:
            with _writing(self._events.log_dir):
                for key, value in values.items():
                    if isinstance(value, (int, float)):
                        self._events.add_scalar(key, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Closing writes what is left, and fails again where writing failed: the first error is the one to tell.
        try:
            self._close()
        except OutputError as second:
            if error is None:
                raise
            log.debug("%s", second)

    def _close(self) -> None:
        try:
            with _writing(self.path):
                self._file.close()
        finally:
            if self._events is not None:
                with _writing(self._events.log_dir):
                    self._events.close()


@contextmanager
def _writing(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}; free space and resume") from error


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run so far; a last line that a kill cut short is left out."""
    path = folder / FILE_NAME
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text("utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            log.warning("%s: left out a damaged line", path)
    return lines
