"""Adapts labels to their own examples in the background: one at a time, in a thread that gives way to everything else.

A fit of earlier examples goes on being used, with the label's present examples, until the next fit is done: it fits
nearly as well, and masks would otherwise get worse with every new example, for a minute.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from typing import Final

from fewseg.core.errors import FewsegError, one_line
from fewseg.inference.adaptation.adapted import AdaptedLabel
from fewseg.inference.adaptation.choice import ENOUGH_EXAMPLES
from fewseg.inference.adaptation.report import Adaptation
from fewseg.inference.segmenter import Segmenter
from fewseg.inference.supports import LabelSupport

log = logging.getLogger(__name__)

_LONGEST_STEP: Final = 60.0
"""Longest time to wait for the end of a fit, in seconds."""

NICENESS: Final = 10
"""Niceness of the thread, where the system has one for threads: it gets a tenth of a processor that others want."""


@dataclass(frozen=True)
class Fit:
    """What was fitted to some examples of a label."""

    examples: frozenset[str]
    """Identifiers of the examples."""
    report: Adaptation
    adaptation: AdaptedLabel | None
    """None where left-out examples were not predicted better with it."""
    presence_threshold: float | None = None

    @property
    def digest(self) -> str:
        """A short hash of what predictions depend on; empty where they are those of the label as taught."""
        return self.adaptation.digest if self.adaptation else ""

    def serves(self, examples: Set[str]) -> bool:
        """Whether to use it for a label that has these examples now: they are enough, and half of its own at least."""
        return len(examples) >= ENOUGH_EXAMPLES and 2 * len(self.examples & examples) >= len(self.examples)

    def applied(self, support: LabelSupport) -> LabelSupport:
        """The label's examples with what was fitted."""
        return replace(support, adaptation=self.adaptation, presence_threshold=self.presence_threshold)


class _Stopped(Exception):
    """The fitter is closing."""


class Fitter:
    """Runs one fit at a time; every method may be called from any thread."""

    def __init__(self, segmenter: Segmenter, give_way: Callable[[], None] = lambda: None) -> None:
        """`give_way` is called in the fit's thread every second or so, and returns when the fit may go on."""
        self._segmenter, self._give_way = segmenter, give_way
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._busy = False
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a fit is under way."""
        return self._busy

    def start(
        self, label: str, support: LabelSupport, examples: frozenset[str], done: Callable[[Fit | None], None]
    ) -> bool:
        """Start to fit a label to its examples; False, and nothing is done, where another fit is under way.

        `done` is called in the fit's thread with the fit, or with None after an error, which is logged.
        """
        with self._lock:
            if self._busy or self._closing.is_set():
                return False
            self._busy = True
            arguments = (label, support, examples, done)
            self._thread = threading.Thread(target=self._run, args=arguments, name="fewseg-fit", daemon=True)
            self._thread.start()
        return True

    def close(self) -> None:
        """Let the fit that is under way end early, without a result, and wait for that."""
        self._closing.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LONGEST_STEP)  # torch ends the process by an abort where a thread outlives it

    def _run(
        self, label: str, support: LabelSupport, examples: frozenset[str], done: Callable[[Fit | None], None]
    ) -> None:
        fit = None
        try:
            lower_priority()
            fit = self._fit(label, support, examples)
        except _Stopped:
            return
        except FewsegError as error:
            log.warning("%s is not adapted: %s", label, error)
        except Exception as error:  # the label goes on as it was taught
            log.warning("%s is not adapted (%s)", label, one_line(error), exc_info=error)
        finally:
            self._busy = False  # before `done`, which may start the next
        if not self._closing.is_set():
            done(fit)

    def _fit(self, label: str, support: LabelSupport, examples: frozenset[str]) -> Fit:
        segmenter = self._segmenter.with_supports({label: support})
        report = segmenter.adapt(label, progress=self._step)[label]
        adapted = segmenter.supports[label]
        return Fit(examples, report, adapted.adaptation, adapted.presence_threshold)

    def _step(self, done: int, total: int, last: str) -> None:
        self._give_way()
        if self._closing.is_set():
            raise _Stopped


def lower_priority() -> None:
    """Let other threads come first; the threads that this one starts inherit that."""
    if sys.platform == "linux":  # elsewhere the number of a thread is not one that priorities are set by
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
