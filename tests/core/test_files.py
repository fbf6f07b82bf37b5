"""Files that are replaced whole, and what killed processes leave of that."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fewseg.core.files import remove_leftovers


class Kernel:
    """Windows' functions on processes: 1 runs, 2 has ended and is still known, 3 is another person's."""

    def OpenProcess(self, rights: int, inherit: bool, process: int) -> int:
        assert rights == 0x0010_0000  # to wait for it, not to end it
        return process if process in (1, 2) else 0

    def WaitForSingleObject(self, handle: int, milliseconds: int) -> int:
        return 258 if handle == 1 else 0

    def CloseHandle(self, handle: int) -> None:
        pass


def test_windows_asks_after_processes_without_ending_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Observed(Kernel):
        def OpenProcess(self, rights: int, inherit: bool, process: int) -> int:
            asked.append(process)
            return super().OpenProcess(rights, inherit, process)

    def never(*_: object) -> None:
        raise AssertionError("os.kill ends the process on Windows, whatever the signal")

    for process in (1, 2, 3, 4):
        (tmp_path / f"a.{process}-0123abcd.tmp").touch()
    (tmp_path / "a.tmp").touch()
    monkeypatch.setattr(os, "kill", never)
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(ctypes, "WinDLL", lambda *_, **__: Observed(), raising=False)
    monkeypatch.setattr(ctypes, "get_last_error", lambda: 5 if asked[-1] == 3 else 87, raising=False)
    assert remove_leftovers(str(tmp_path), spare_running=True) == 2
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.1-0123abcd.tmp", "a.3-0123abcd.tmp", "a.tmp"]


def test_files_of_running_processes_are_spared(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for process in (os.getpid(), ended.pid):
        (tmp_path / f"a.{process}-0123abcd.tmp").touch()
    assert remove_leftovers(tmp_path, spare_running=True) == 1
    assert remove_leftovers(tmp_path) == 1
