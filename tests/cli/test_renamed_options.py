"""Old spellings of options go on working, and say the new one."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from fewseg.cli import main
from fewseg.cli.help import panel_titles
from fewseg.cli.renamed_options import RENAMED_OPTIONS, RENAMED_UNLESS_NUMBER, SPELLINGS, translate
from fewseg.core.errors import InvalidOption

OPTIONS = {
    command: panel_titles(importlib.import_module(f"fewseg.cli.{command}").Options)
    for command in (RENAMED_OPTIONS | SPELLINGS)
}


@pytest.mark.parametrize("command", OPTIONS)
def test_new_spellings_are_options_and_old_ones_are_not(command: str) -> None:
    for old, new in (RENAMED_OPTIONS.get(command, {}) | SPELLINGS.get(command, {})).items():
        assert new in OPTIONS[command]
        assert old not in OPTIONS[command]
    for old, new in RENAMED_UNLESS_NUMBER.get(command, {}).items():
        assert {old, new} <= OPTIONS[command].keys()


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["--query", "1", "2"], ["--input", "1", "2"]),
        (["--query=--query"], ["--input=--query"]),
        (["--no-flips"], ["--no-tta-flip"]),
        (["--export.copy_pictures", "never"], ["--export.copy-images", "never"]),
    ],
)
def test_old_spellings_say_the_new_one(given: list[str], meant: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert translate("segment", given) == meant
    (said,) = capsys.readouterr().err.splitlines()
    assert meant[0].partition("=")[0] in said


@pytest.mark.parametrize(
    ("command", "given", "meant"),
    [
        ("segment", ["--input", "query", "--queries"], ["--input", "query", "--queries"]),
        ("segment", ["--", "--query"], ["--", "--query"]),
        ("frame", ["--query"], ["--query"]),
        ("train", ["--optimizer=adamw", "--opt", "sgd"], ["--optimiser=adamw", "--optimiser", "sgd"]),
        ("evaluate", ["--episodes", "5", "--episodes=7"], ["--episodes", "5", "--episodes=7"]),
    ],
)
def test_nothing_is_said_else(
    command: str, given: list[str], meant: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert translate(command, given) == meant
    assert capsys.readouterr().err == ""


def test_evaluates_episodes_were_files_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--episodes", "none.json"], ["--episodes=none.json"]):
        assert main(["evaluate", "--data", "synthetic", "--out", str(tmp_path / "out"), *words]) == 2
        told, error = capsys.readouterr().err.splitlines()
        assert "--episodes is called --episode-lists now" in told
        assert "cannot read none.json" in error


@pytest.mark.parametrize(
    ("command", "given", "meant"),
    [
        ("segment", "--checkpoint a.pt --input b", "--model a.pt --input b"),
        ("segment", "--checkpoint a.pt --official swin_b --input b", "--model=dcama:swin_b:a.pt --input b"),
        ("serve", "--official=resnet50 --model a.pt --method sccan", "--model=sccan:resnet50:a.pt"),
        ("evaluate", "--method prototype --shots 1", "--model=prototype:resnet50 --shots 1"),
        ("evaluate", "--method prototype --backbone swin_b", "--model=prototype:swin_b"),
        ("train", "--method hsnet --backbone swin_b", "--method hsnet --backbone swin_b"),
    ],
)
def test_a_model_has_one_name(command: str, given: str, meant: str) -> None:
    assert translate(command, given.split()) == meant.split()


def test_a_model_of_parts_that_do_not_fit() -> None:
    for words, said in (
        ("--official swin_b", "give the file, --model dcama:swin_b:FILE"),
        ("--method hsnet --checkpoint a", "leave out one of the two"),
        ("--backbone swin_b", "give --model METHOD:BACKBONE"),
    ):
        with pytest.raises(InvalidOption, match=said):
            translate("evaluate", words.split())
