"""From words to options: what fits, what does not and how that is said, where values come from."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fewseg.cli import bench, evaluate, main, prepare, segment, serve
from fewseg.cli.entry import COMMANDS
from fewseg.cli.parser import options_of, parse
from fewseg.core.errors import InvalidOption

FILES = ["--input", "a", "b", "--out", "c"]


def read(command: Any, *words: str) -> Any:
    return parse(command.Options, words, f"fewseg {command.__name__.rpartition('.')[2]}")


def test_words_become_values() -> None:
    options = read(segment, *FILES, "--tta-scales", "1", "1.5", "--tile=64", "--no-overlays", "-v", "--export.absent")
    assert (options.input, options.out) == ((Path("a"), Path("b")), Path("c"))
    assert (options.tta_scales, options.tile, options.overlays, options.verbose) == ((1.0, 1.5), 64, False, True)
    assert options.export.absent
    assert read(segment, *FILES, "--tile", "auto").tile == "auto"
    assert read(serve, "photos", "--limits.labels", "3").limits.labels == 3
    assert read(serve, "photos").folder == Path("photos")
    assert read(prepare, "--root", "x", "pascal5i").benchmark == "pascal5i"
    assert read(bench).parts == ()
    assert read(bench, "queries", "curves", "--quick").parts == ("queries", "curves")


def test_of_an_option_given_twice_the_last_counts() -> None:
    words = ["--data", "x", "--out", "o", "--shots", "1", "2", "--device", "cpu"]
    options = read(evaluate, *words, "--shots", "5", "--device", "cuda")
    assert (options.shots, options.device) == ((5,), "cuda")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (FILES[:-2], "missing --out; see fewseg segment --help"),
        ([], "missing --input, --out; see fewseg segment --help"),
        (["--inptu", "a", "--out", "c"], "unknown option '--inptu'; did you mean '--input'"),
        ([*FILES, "--presicion=float32"], "unknown option '--presicion'; did you mean '--precision'"),
        ([*FILES, "--export.absnt"], "did you mean '--export.absent'"),
        (["--input", "a", "--out"], "--out needs a value"),
        ([*FILES, "--shots", "1.5"], "--shots is '1.5': give a whole number"),
        ([*FILES, "--overlap", "much"], "--overlap is 'much': give a number"),
        ([*FILES, "--engine", "rey"], "--engine is 'rey': give one of threads, ray; did you mean 'ray'?"),
        ([*FILES, "--tile", "big"], "--tile is 'big': give auto or a whole number"),
        ([*FILES, "--presence-threshold", "low"], "--presence-threshold is 'low': give a number"),
        (["a", *FILES], "unexpected 'a'"),
        ([*FILES, "--export.tolerance", "-1"], "tolerance -1"),
    ],
)
def test_what_does_not_fit_is_said(words: list[str], message: str) -> None:
    with pytest.raises(InvalidOption) as caught:
        read(segment, *words)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_an_argument_without_an_option_is_named() -> None:
    with pytest.raises(InvalidOption, match=r"^benchmark is 'foo': give one of pascal5i, coco20i, fss1000$"):
        read(prepare, "foo", "--root", "x")


@pytest.mark.parametrize("words", [["segment", "--help"], ["--help"], ["--version"]])
def test_a_reader_that_leaves_is_no_error(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "fewseg", *words],
            stdout=writing,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_for_people(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "None" not in said
    assert "(" not in said.partition("Options ─")[0].partition("Usage")[0]
    for option in options_of(importlib.import_module(f"fewseg.cli.{command}").Options):
        assert option.name in said
        assert option.parameter.help, f"{option.name} is explained nowhere"


def test_required_options_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    main(["segment", "--help"])
    said = capsys.readouterr().out
    assert "--support PATH" in said
    places = [said.index(f" {option} ", said.index("Teach with")) for option in ("--input", "--out", "--support")]
    assert places == sorted(places)
    assert places[-1] < said.index("--model") < said.index("--export.absent")
