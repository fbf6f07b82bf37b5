"""Runs of bad inputs as processes of their own, with limited memory and time.

As a program, of all of them or of those whose names have a word:
`PYTHONPATH=src:tests python -m helpers.limited_runs [WORD]`.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Final

import fewseg
from helpers.bad_annotations import annotation_cases
from helpers.bad_cases import Case, picture
from helpers.bad_images import image_cases, mask_cases
from helpers.bad_options import model_cases, option_cases

SECONDS: Final = 20
"""Of the processor."""
MEGABYTES: Final = 1500
"""What a command may take, at most."""
ADDRESSES: Final = 8 << 30
"""Bytes of address space, of which torch reserves several gigabytes without using them."""

LOAD: Final = """
import sys
from fewseg import Segmenter, errors
try:
    Segmenter.load(sys.argv[1], device="cpu").segment("q/good.png")
except errors.FewsegError as error:
    print(f"fewseg: error: {error}", file=sys.stderr)
    sys.exit(2)
"""


def models() -> tuple[bytes, bytes]:
    """A file of `Segmenter.save` and the default checkpoint."""
    checkpoint = Path(fewseg.__file__).parent / "models" / "weights" / "default.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        segmenter = fewseg.Segmenter.from_pretrained(device="cpu")
        segmenter.teach("red", *picture())
        segmenter.save(Path(folder, "taught.fewseg"))
        return Path(folder, "taught.fewseg").read_bytes(), checkpoint.read_bytes()


def all_cases() -> list[Case]:
    """Every case."""
    return [*image_cases(), *mask_cases(), *annotation_cases(), *model_cases(*models()), *option_cases()]


def wrong(code: int, errors: str) -> str | None:
    """Why the end of a command is not one that users can use; None where it is."""
    if "Traceback (most recent call last)" in errors:
        return "a traceback: " + errors.strip().splitlines()[-1][:300]
    if code not in (0, 2):
        return f"exit code {code}: {errors[-300:]}"
    said = [line for line in errors.splitlines() if line.strip()]
    if code == 2 and not said:
        return "exit code 2 without a word"
    if any(len(line) > 1200 for line in said):
        return "a line of over 1200 characters"
    return None


def run_limited(case: Case, folder: Path) -> str | None:
    """Run a case in an empty folder; what is wrong with how it ended."""
    case.write(folder)
    command = (
        ["-c", LOAD, *case.arguments[1:]] if case.arguments[:1] == ("load",) else ["-m", "fewseg", *case.arguments]
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))

    with (folder / "stderr").open("wb") as errors:
        child = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            preexec_fn=limit,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        )
        timer = threading.Timer(3 * SECONDS, lambda: os.kill(child.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(child.pid, 0)
        timer.cancel()
    seconds, megabytes = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000
    child.returncode = os.waitstatus_to_exitcode(status)
    if seconds > SECONDS:
        return f"{seconds:.0f} s"
    if megabytes > MEGABYTES:
        return f"{megabytes:.0f} MB"
    return wrong(child.returncode, (folder / "stderr").read_text("utf-8", "replace"))


def main() -> int:
    """Print what goes wrong; the number of cases."""
    cases = [case for case in all_cases() if all(word in case.name for word in sys.argv[1:])]
    failed = 0
    for case in cases:
        with tempfile.TemporaryDirectory() as folder:
            problem = run_limited(case, Path(folder))
        if problem:
            failed += 1
            print(f"{case.name}: {problem}", flush=True)
    print(f"{len(cases)} bad inputs, {failed} of them end badly")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
