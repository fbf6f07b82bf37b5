"""Two processes never write one folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewseg.core.errors import FolderInUse, OutputError
from fewseg.core.locks import FolderLock, is_lock

HOLD = """
import sys; from fewseg.core.locks import FolderLock
lock = FolderLock(sys.argv[1]); print("held", flush=True); sys.stdin.read()
"""


def test_one_at_a_time_by_name_and_process(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    with FolderLock(folder) as lock:
        with pytest.raises(FolderInUse, match=rf"out is in use by another fewseg \(process {os.getpid()} on .*stop it"):
            FolderLock(folder)
        FolderLock(folder, "other").release()
        assert all(is_lock(file) for file in folder.iterdir() if not file.name.startswith("other"))
        lock.release()
        FolderLock(folder).release()  # a second release does nothing


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(FolderInUse, match=f"process {child.pid} "):
            FolderLock(tmp_path)
        child.kill()
        child.wait()
    FolderLock(tmp_path).release()


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot make the folder"):
        FolderLock(tmp_path / "file")
    (tmp_path / "taken" / "lock").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"taken.lock"):
        FolderLock(tmp_path / "taken", "lock")
