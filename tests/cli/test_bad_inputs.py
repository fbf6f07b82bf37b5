"""Whatever the input: success or one line with exit code 2, within seconds and a bounded amount of memory."""

from __future__ import annotations

import io
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

import fewseg
from fewseg.cli import common, main
from fewseg.core.errors import FewsegError
from fewseg.inference.segmenter import Segmenter
from helpers.bad_cases import Case
from helpers.colour_method import ColourMethod
from helpers.limited_runs import MEGABYTES, SECONDS, all_cases, run_limited, wrong

CASES = {case.name: case for case in all_cases()}
STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="limits of Linux")


def test_there_are_many() -> None:
    assert len(CASES) >= 300


@pytest.fixture(autouse=True)
def quick_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that needs no time, where the input is no checkpoint."""
    if "checkpoint" not in request.node.name:
        monkeypatch.setattr(common, "make_segmenter", lambda *_, **__: Segmenter(ColourMethod(), device="cpu"))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", CASES)
def test_it_ends_well_in_this_process(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    case.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    before, begin = _start_of_peak(), time.process_time()
    errors = io.StringIO()
    with redirect_stderr(errors), redirect_stdout(io.StringIO()), _limited():
        code = _run(case)
    assert time.process_time() - begin < SECONDS
    assert wrong(code, errors.getvalue()) is None, wrong(code, errors.getvalue())
    assert not (tmp_path / "ran").exists()
    assert _megabytes("VmHWM") - before < MEGABYTES - 700  # what Python and torch take
    torch.set_num_threads(1)


class TooLong(BaseException):
    """Nothing that a program catches."""


@contextmanager
def _limited() -> Iterator[None]:
    """Ends what hangs, and gives only some memory beyond what is in use: a test must not take the machine's."""

    def ring(*_: object) -> None:
        raise TooLong

    used = int(_megabytes("VmSize")) << 20
    before, (soft, hard) = signal.signal(signal.SIGALRM, ring), resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_REAL, 3 * SECONDS)  # other tests may run beside it
    resource.setrlimit(resource.RLIMIT_AS, (used + (3 << 30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _run(case: Case) -> int:
    if case.arguments[:1] != ("load",):
        return main(case.arguments)
    try:
        fewseg.Segmenter.load(case.arguments[1], device="cpu").segment("q/good.png")
    except FewsegError as error:
        print(f"fewseg: error: {error}", file=sys.stderr)
        return 2
    return 0


def _start_of_peak() -> float:
    """Megabytes in use; the peak is counted from now on."""
    Path("/proc/self/clear_refs").write_text("5")
    return _megabytes("VmRSS")


def _megabytes(name: str) -> float:
    return next(int(line.split()[1]) / 1000 for line in STATUS.read_text().splitlines() if line.startswith(name))


SOME = [
    "image of 10 gigapixels",
    "coco nested",
    "cvat laughs",
    "taught nested metadata of the whole",
    "line segment --input q --out o --support s --model /dev/zero",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SOME if name in CASES])
def test_it_ends_well_as_a_process_with_limited_memory(name: str, tmp_path: Path) -> None:
    assert run_limited(CASES[name], tmp_path) is None
