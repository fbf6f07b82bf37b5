"""Old spellings of options go on working, and say the new one."""

from __future__ import annotations

import pytest

from fewseg.cli import renamed_options
from fewseg.cli.renamed_options import translate


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(renamed_options.RENAMED_OPTIONS, "segment", {"--old": "--new", "--export.old": "--export.new"})
    monkeypatch.setitem(renamed_options.SPELLINGS, "segment", {"--colour": "--color"})


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--old", "1", "2"], ["--new", "1", "2"]),
        (["--old=--old"], ["--new=--old"]),
        (["--no-old"], ["--no-new"]),
        (["--export.old"], ["--export.new"]),
    ],
)
def test_old_spellings_say_the_new_one(given: list[str], meant: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert translate("segment", given) == meant
    (said,) = capsys.readouterr().err.splitlines()
    assert meant[0].partition("=")[0] in said


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--new", "old", "--older"], ["--new", "old", "--older"]),
        (["--", "--old"], ["--", "--old"]),
        (["--colour=red"], ["--color=red"]),
    ],
)
def test_nothing_is_said_else(given: list[str], meant: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert translate("segment", given) == meant
    assert translate("serve", ["--old"]) == ["--old"]
    assert capsys.readouterr().err == ""
