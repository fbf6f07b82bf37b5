"""kill -9 at some moments of every command that goes on; `python -m helpers.kills` does it a hundred times."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from helpers.kills import CASES, differences
from helpers.serve_kills import problems

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="kills a group of processes")]


@pytest.mark.parametrize("name", list(CASES))
def test_a_killed_command_leaves_the_files_of_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    assert differences(CASES[name], tmp_path, [0.5, 0.7, 0.9]) == []


def test_a_killed_server_has_what_it_answered(tmp_path: Path) -> None:
    assert problems(tmp_path, 3, seed=1) == []
