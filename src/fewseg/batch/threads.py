"""One machine: threads that read, run the model and write, with a bounded number of images between them.

Pillow, torch and numpy let go of Python's lock while they decode, resize, compute, compress and write, so threads are
enough; each reads or writes with a single thread of torch, and only the model has several. Results at full size exist
only while they are written. Memory therefore does not grow with the number of images, apart from their entries in
results.json.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from fewseg.batch.earlier import Record
from fewseg.batch.options import BatchOptions
from fewseg.batch.steps import ImageSteps, Loaded, Outcome, Task
from fewseg.core.errors import FewsegError

_IMAGES_PER_CORE: Final = 2
"""From so many images per core on, every image has one core; fewer would leave cores idle at the end."""


@dataclass(frozen=True)
class ThreadPlan:
    """How many threads do what."""

    readers: int
    writers: int
    models: int
    """Batches that are in the model at a time."""
    model_threads: int
    """Threads of torch for each of them."""
    batch_size: int

    @classmethod
    def of(cls, options: BatchOptions, device: torch.device, images: int, cores: int | None = None) -> ThreadPlan:
        """What the options leave to us, for so many images; with the machine's and torch's cores, or those given.

        `images` counts those that are finished already too: a run that goes on after an interruption computes as the
        first one did, to the bit.
        """
        on_cpu = device.type == "cpu"
        files = options.workers or min(4 if on_cpu else 16, cores or os.cpu_count() or 1)
        available = cores or torch.get_num_threads()
        # Threads of one run wait for each other, and keep the cores busy meanwhile; side by side, runs need not.
        many = on_cpu and images >= _IMAGES_PER_CORE * available
        threads = min(options.model_threads or (1 if many else available), available)
        # A GPU has two: one batch is copied in and out, and prepared, while it computes the other.
        models = available // threads if on_cpu else 1 + (device.type == "cuda")
        batch = min(options.batch_size or (1 if on_cpu else 8), images)
        return cls(files, files, models, threads, batch)


class ThreadsEngine:
    """Segments images with threads of this process."""

    def __init__(self, work: ImageSteps, plan: ThreadPlan) -> None:
        self.work, self.plan = work, plan

    def run(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        """What became of each image, in order but for images that cannot be read, which come early.

        What has been segmented when the iterator is closed, or an error ends it, is written first.

        Raises:
            OutputError: results cannot be written. InvalidOption: a batch does not fit in the device's memory.
        """
        return _Run(self.work, self.plan).all(tasks)


class _Run:
    """One call of `ThreadsEngine.run`: images between the pools."""

    def __init__(self, work: ImageSteps, plan: ThreadPlan) -> None:
        self.work, self.plan = work, plan
        self.readers = _pool(plan.readers, 1)
        self.models = _pool(plan.models, plan.model_threads)
        self.writers = _pool(plan.writers, 1)
        self.streams = threading.local()
        self.started = False
        self.computing: deque[tuple[Sequence[Loaded], Future[Sequence[Tensor]]]] = deque()
        self.writing: deque[tuple[Task, Future[Record]]] = deque()

    def all(self, tasks: Sequence[Task]) -> Generator[Outcome, None, None]:
        torch_threads = torch.get_num_threads()
        try:
            batch: list[Loaded] = []
            for task, loaded in self._read_ahead(tasks):
                if isinstance(loaded, FewsegError):
                    yield task.source, loaded
                    continue
                batch.append(loaded)
                if len(batch) == self.plan.batch_size:
                    self._compute(batch)
                    batch = []
                    yield from self._advance(2 * self.plan.models, 2 * self.plan.writers)
            if batch:
                self._compute(batch)
            yield from self._advance(0, 0)
        finally:
            self.readers.shutdown(cancel_futures=True)
            self.models.shutdown(cancel_futures=True)
            self.writers.shutdown()  # finishes what has been segmented: journalled, so never done twice
            torch.set_num_threads(torch_threads)  # the pools' own number also holds for threads that start later

    def _read_ahead(self, tasks: Sequence[Task]) -> Iterator[tuple[Task, Loaded | FewsegError]]:
        """Every image with what was read of it, in order; a bounded number of reads runs ahead."""
        waiting: deque[tuple[Task, Future[Loaded | FewsegError]]] = deque()
        left = iter(tasks)
        ahead = 2 * self.plan.readers + self.plan.batch_size
        while True:
            while len(waiting) < ahead and (task := next(left, None)) is not None:
                waiting.append((task, self.readers.submit(self.work.read, task)))
            if not waiting:
                return
            task, future = waiting.popleft()
            yield task, future.result()

    def _compute(self, batch: Sequence[Loaded]) -> None:
        future = self.models.submit(self._segment, batch)
        self.computing.append((batch, future))
        if not self.started:  # what a method derives from the support on first use is made before several ask for it
            self.started = True
            wait([future])

    def _segment(self, batch: Sequence[Loaded]) -> Sequence[Tensor]:
        """One run of the model; each thread has a stream of its own on a GPU, so that two batches overlap there."""
        device = self.work.segmenter.method.device
        if device.type != "cuda":
            return self.work.segment(batch, self.plan.batch_size)
        if not hasattr(self.streams, "mine"):
            self.streams.mine = torch.cuda.Stream(device)
            self.streams.mine.wait_stream(torch.cuda.default_stream(device))
        with torch.cuda.stream(self.streams.mine):
            return self.work.segment(batch, self.plan.batch_size)

    def _advance(self, computing: int, writing: int) -> Iterator[Outcome]:
        """Hand on batches, and give results, until no more than so many wait; those that are ready in any case."""
        while self.computing and (len(self.computing) > computing or self.computing[0][1].done()):
            batch, future = self.computing.popleft()
            for loaded, coarse in zip(batch, future.result(), strict=True):
                self.writing.append((loaded.task, self.writers.submit(self.work.write, loaded, coarse)))
            yield from self._written(writing)
        yield from self._written(writing)

    def _written(self, allowed: int) -> Iterator[Outcome]:
        while self.writing and (len(self.writing) > allowed or self.writing[0][1].done()):
            task, future = self.writing.popleft()
            yield task.source, future.result()


def _pool(threads: int, torch_threads: int) -> ThreadPoolExecutor:
    """Threads that each use so many of torch's: without that, every one of them would use all cores."""
    return ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(torch_threads,))
