"""A full disk, imitated by a limit on the length of files: one line, nothing half written, and a run that goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fewseg import cli
from fewseg.core.errors import OutputError
from fewseg.inference.segmenter import Segmenter
from helpers.colour_method import ColourMethod, blob
from helpers.kills import CASES, contents

resource = pytest.importorskip("resource")
pytestmark = pytest.mark.slow


@contextmanager
def full_disk(length: int) -> Iterator[None]:
    """No file grows beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("length", [100, 900])
@pytest.mark.parametrize("name", list(CASES))
def test_commands(name: str, length: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case, data, out = CASES[name], tmp_path / "data", tmp_path / "out"
    data.mkdir()
    case.make(data)

    def run() -> int:
        return cli.main(case.words.replace("--workers 2", "--workers 1").format(data=data, out=out).split())

    def begin() -> None:
        shutil.rmtree(out, ignore_errors=True)
        if case.inside:
            shutil.copytree(data, out)

    begin()
    assert run() == 0
    expected = contents(out)
    begin()
    capsys.readouterr()
    with full_disk(length):
        assert run() == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert "cannot write" in lines[0]
    assert not list(out.rglob("*.tmp"))
    assert run() == 0
    assert contents(out) == expected


def test_a_saved_segmenter_stays_as_it_was(tmp_path: Path) -> None:
    segmenter = Segmenter(ColourMethod(), device="cpu")
    segmenter.teach("red", *blob("red"))
    segmenter.save(tmp_path / "a.fewseg")
    before = (tmp_path / "a.fewseg").read_bytes()
    segmenter.teach("blue", *blob("blue"))
    with full_disk(100), pytest.raises(OutputError, match="free space or choose another"):
        segmenter.save(tmp_path / "a.fewseg")
    assert (tmp_path / "a.fewseg").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.fewseg"]
