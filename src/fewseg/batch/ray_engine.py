"""One machine or many: Ray Data gives parts of the list of images to workers that each hold the model.

The taught segmenter goes to every machine once, through Ray's object store: examples are encoded here and nowhere
else. A worker reads its images and writes their results itself (`fewseg.batch.threads` in its process), so that
images do not travel; folders of images and results must therefore be at the same paths on every machine. What comes
back are the entries of results.json, which are journalled here. A part whose worker is lost is done again by another;
files only ever appear whole, with the same bytes.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch

from fewseg.batch.attempts import Attempts
from fewseg.batch.earlier import Record
from fewseg.batch.options import BatchOptions
from fewseg.batch.ray_worker import FAILED, FATAL, FOUND, RayWorker, WorkerState
from fewseg.batch.steps import ImageSteps, Outcome, Task
from fewseg.batch.threads import ThreadPlan
from fewseg.core.errors import InvalidImage, InvalidOption, OutputError, WorkerError, one_line
from fewseg.images.depth import get_range

log = logging.getLogger(__name__)

_ATTEMPTS: Final = ".attempts"
"""Folder in the output folder, while a run is under way."""

_PATIENCE: Final = 15.0
"""Seconds in which a cluster has to answer."""

_PART: Final = {"cpu": 32, "cuda": 256}
"""Images that a worker gets at a time: what it still does when the last are left, and what is lost when it dies."""


def require_ray() -> Any:
    """The ray module, quiet; raises `InvalidOption` where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 is Ray's own: on a busy machine workers would starve
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a warning about a later version's default
    try:
        importlib.import_module("ray.data")
    except ImportError as error:
        raise InvalidOption(
            f"the ray engine is not installed ({one_line(error)}): pip install 'fewseg[ray]', or use the threads engine"
        ) from error
    return importlib.import_module("ray")


class RayEngine:
    """Segments images with the workers of a Ray cluster, or of a Ray that it starts on this machine."""

    def __init__(self, work: ImageSteps, options: BatchOptions, images: int) -> None:
        self.work, self.options, self.images = work, options, images
        self.attempts = Attempts(work.folder.root.absolute() / _ATTEMPTS)
        on_gpu = work.segmenter.method.device.type == "cuda"
        self.gpus = options.ray_gpus if options.ray_gpus >= 0 else float(on_gpu)
        self.cpus = options.ray_cpus or (4 if self.gpus else torch.get_num_threads())

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """What became of each image, in the order in which parts are finished.

        Raises:
            WorkerError: Ray cannot be started, or workers keep dying. InvalidOption: it is not installed, or a batch
                does not fit in a GPU. OutputError: results cannot be written.
        """
        if not tasks:
            return
        ray = require_ray()
        failures = (
            ray.exceptions.RayError,
            ray.data.exceptions.UserCodeException,
            ray.data.exceptions.SystemException,
        )
        with _started(ray, self.options, self.cpus):
            try:
                for row in self._rows(ray, tasks):
                    yield self._outcome(tasks[row["place"]].source, row)
            except failures as error:
                raise WorkerError(_what_failed(error)) from error
            finally:
                self.attempts.clear()

    def _rows(self, ray: Any, tasks: Sequence[Task]) -> Iterator[dict[str, Any]]:
        """What the workers say of each image, as the parts come in."""
        now, workers = self._workers(ray)
        largest = _PART["cuda" if self.gpus else "cpu"]
        part = max(1, self.options.batch_size, min(largest, -(-len(tasks) // (4 * workers))))
        self.attempts.clear()  # of a run that was killed
        state = ray.put(self._state())
        with _quiet_data(ray):
            # As JSON: names need not be valid Unicode, which Arrow's strings must be.
            items = [json.dumps([i, str(task.source), task.name]) for i, task in enumerate(tasks)]
            count = -(-len(items) // part)
            parts = ray.data.from_items([{"task": item} for item in items], override_num_blocks=count)
            found = parts.map_batches(
                RayWorker,
                fn_constructor_args=(state, sys.path),
                batch_size=None,
                batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(min_size=min(now, count), max_size=min(workers, count)),
                num_cpus=self.cpus,
                num_gpus=self.gpus,
            )  # Ray Data starts workers that died again, and gives their parts to others, as often as it takes
            for batch in found.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                for row in batch["row"]:
                    yield json.loads(row)

    def _state(self) -> WorkerState:
        """What every worker needs, on the CPU."""
        device = "cuda" if self.gpus else "cpu"
        plan = ThreadPlan.of(self.options, torch.device(device), self.images, cores=self.cpus)
        segmenter = self.work.segmenter.to("cpu")
        # Images of examples are for `adapt`, which no worker calls.
        segmenter = segmenter.with_supports({k: replace(s, examples=()) for k, s in segmenter.supports.items()})
        return WorkerState(segmenter, self.work.folder, self.attempts, self.work.overlays, plan, device, get_range())

    def _workers(self, ray: Any) -> tuple[int, int]:
        """How many workers to begin with, and how many to grow to."""
        there = ray.cluster_resources()
        fit = int(there.get("CPU", 0) // self.cpus)
        if self.gpus:
            fit = min(fit, int(there.get("GPU", 0) / self.gpus))
        wanted = self.options.ray_workers or max(1, fit)
        if fit < wanted:
            need = f"{self.cpus} cores" + (f" and {self.gpus:g} GPUs" if self.gpus else "")
            log.warning("Ray has room for %d of %d workers with %s each now: waiting for more", fit, wanted, need)
        return max(1, min(fit, wanted)), wanted

    def _outcome(self, source: Path, row: dict[str, Any]) -> Outcome:
        """A row as an outcome, journalled; raises the error that ended the worker's run."""
        if row["kind"] == FOUND:
            record: Record = row["record"]
            self.work.folder.accept(record)
            return source, record
        if row["kind"] == FAILED:
            return source, InvalidImage(row["error"])
        assert row["kind"] == FATAL
        raise {"OutputError": OutputError, "InvalidOption": InvalidOption}.get(row["type"], WorkerError)(row["error"])


@contextmanager
def _started(ray: Any, options: BatchOptions, cpus: int) -> Iterator[None]:
    """Ray connected, for as long as needed; one that runs in this process already is used and left running."""
    if ray.is_initialized():
        yield
        return
    address = options.ray_address or os.environ.get("RAY_ADDRESS") or "local"
    settings: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        # So many workers as are asked for fit, even where cores are fewer.
        cores = max(os.cpu_count() or 1, options.ray_workers * cpus, cpus)
        settings |= {"num_cpus": cores, "include_dashboard": False}
    try:
        _require_answer(address)
        with _nothing_on_stderr():
            ray.init(**settings)
    except Exception as error:  # whatever Ray raises: sockets, processes, versions, file systems
        where = "start on this machine" if address == "local" else f"connect to the cluster at {address}"
        raise WorkerError(f"Ray cannot {where} ({one_line(error)}): mend that, or use the threads engine") from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise `OSError` where nobody answers at a host:port: Ray itself tries for minutes, then names no reason."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


@contextmanager
def _nothing_on_stderr() -> Iterator[None]:
    """Ray's own C++ tells on stderr, which Python cannot filter, that it has been told to be quiet."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def _quiet_data(ray: Any) -> Iterator[None]:
    """Ray Data without progress bars of its own and without notices."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.print_on_execution_start, logger.level
    context.enable_progress_bars = context.print_on_execution_start = False
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start, level = before
        logger.setLevel(level)


def _what_failed(error: BaseException) -> str:
    """One line about an error of Ray, whose own messages are pages long with the reason at the end."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    lines = [(type(link).__name__, str(link).strip().splitlines()) for link in chain]
    name, text = next(
        ((name, text[-1]) for name, text in reversed(lines) if text), (type(error).__name__, "no message")
    )
    return f"Ray failed ({name}: {text.strip()}): what is finished is kept; run the same command again to resume"
