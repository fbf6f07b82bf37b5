"""The scripts beside `fewseg_bench` start: their imports and options are in order; `make bench` runs some."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: str(script.stem))
def test_help(script: Path) -> None:
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_the_scripts_are_found() -> None:
    assert {script.stem for script in SCRIPTS} >= {"bulk", "domains", "objects", "prompts", "server_load"}
