"""Absurd numbers and endless files are refused before anything is read or allocated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fewseg import cli
from fewseg.core.bounds import bounded, check_number
from fewseg.core.errors import InvalidOption


def test_numbers() -> None:
    check_number("epochs", 3)
    for value in (10**12, -(10**12), float("nan"), float("inf")):
        with pytest.raises(InvalidOption, match="epochs is"):
            check_number("epochs", value)


@pytest.mark.skipif(os.name == "nt", reason="no such devices")
def test_endless_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    assert bounded(tmp_path / "a.txt").read_text() == "x"
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(2 << 30)
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path / "huge", tmp_path):
        with pytest.raises(OSError, match="it "):
            bounded(path)


@pytest.mark.skipif(os.name == "nt", reason="no such devices")
@pytest.mark.parametrize(
    "words",
    [
        "evaluate --data synthetic --episode-lists /dev/zero",
        "evaluate --data synthetic --episodes-per-class 100000000",
        "evaluate --data synthetic --seed 99999999999999999999",
        "evaluate --data synthetic --shots 99999999",
        "evaluate --data synthetic --batch-size 99999999",
        "train --data synthetic --config /dev/zero",
        "train --data synthetic --epochs 99999999999",
        "train --data synthetic --seed 99999999999999999999",
        "train --data synthetic --backbone tiny --random-backbone --model-kwargs heads=10000000",
        "train --data synthetic --method sccan --backbone tiny --random-backbone --model-kwargs width=10000000",
        "segment --support {here} --input {here} --workers 1000000000",
        "segment --support {here} --input {here} --batch-size 1000000000",
        "segment --support /dev/zero --input {here}",
        "segment --support {here} --input /dev/zero",
        "segment --support {here} --input {here} --model /dev/zero",
        "prepare coco20i --root {here} --workers 1000000000",
    ],
)
def test_absurd_options(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = [] if words.startswith("prepare") else ["--out", str(tmp_path / "out")]
    assert cli.main([*words.format(here=tmp_path).split(), *out]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("fewseg: error: ")
