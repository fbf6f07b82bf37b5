"""`fewseg bench` from the command line."""

from __future__ import annotations

import dataclasses
import json

import pytest

from fewseg.cli import main
from fewseg_bench.curves import CURVES
from fewseg_bench.models import MODELS, QUICK_NAME
from fewseg_bench.run import BenchPlan
from fewseg_bench.settings import BenchSettings
from helpers.bench import small_products as small_products


def test_command(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "queries", "--quick", "--models", QUICK_NAME, "--size", "64", "--shots", "1", "--no-memory"]
    command += ["--levels", "query", "--repeats", "1", "--precisions", "float32", "--out", str(tmp_path / "out")]
    assert main([*command, "--json", str(tmp_path / "all.json")]) == 0
    printed = capsys.readouterr().out
    assert "| DCAMA, small backbone | 64 | 1 | whole query | float32 |" in printed
    assert (tmp_path / "out/results.md").read_text("utf-8") == printed.removesuffix("\n")
    assert json.loads((tmp_path / "all.json").read_text()) == json.loads((tmp_path / "out/results.json").read_text())


def asked(monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[BenchSettings, BenchPlan]:
    """What a command line measures."""
    seen: list[tuple[BenchSettings, BenchPlan]] = []
    with monkeypatch.context() as patched:
        patched.setattr(
            "fewseg_bench.run.measure", lambda settings, plan, results, progress: seen.append((settings, plan))
        )
        assert main(["bench", *words]) == 0
    return seen[0]


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_measured_where_there_are_instructions_for_it(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    monkeypatch.setattr("fewseg.core.devices.has_bfloat16", lambda device: native)
    usual = ("float32", "bfloat16") if native else ("float32",)
    for quick in ("--quick", "--no-quick"):
        words = [quick, "--device", "cpu"]
        assert asked(monkeypatch, *words)[0].precisions == usual
        assert asked(monkeypatch, *words, "--precisions", "bfloat16")[0].precisions == ("bfloat16",)


def test_given_options_win_over_quick_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    quick, plan = asked(monkeypatch, "--quick", "queries", "training")
    assert (quick.models, quick.shots, quick.repeats) == (("embedded",), (5,), 3)
    assert plan.training == (("embedded", 2),)
    models = tuple(MODELS)[:2]
    words = ["--quick", "--models", *models, "--shots", "1", "5", "10", "--repeats", "5"]
    given, plan = asked(monkeypatch, *words)
    assert (given.models, given.shots, given.repeats) == (models, (1, 5, 10), 5)
    assert plan.curve_models == plan.implementation_models == models
    usual, plan = asked(monkeypatch)
    assert usual == dataclasses.replace(BenchSettings(), precisions=usual.precisions)  # these go by the device
    assert plan.curves == CURVES


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["qeries"], "unknown part 'qeries'; did you mean 'queries'"),
        (["--models", "dcama-resnet5"], "did you mean 'dcama-resnet50'"),
        (["--shots", "0"], "shots 0"),
        (["--precisions", "float8"], "unknown precision"),
        (["--size", "100"], "multiple of 32"),
        (["--device", "cuda:99"], "not available here"),
        (["accuracy"], "--data"),
        (["accuracy", "--data", "nowhere"], "nowhere"),
        (["accuracy", "--data", "synthetic", "--model", "nowhere.safetensors"], "nowhere.safetensors"),
        (["queries", "--json", "/dev/null/x.json"], "cannot make the folder /dev/null"),
        (["queries", "--json", "/"], "--json / is a folder: name a file"),
        (["implementations", "--models", "hsnet-resnet50"], "implementations are DCAMA's"),
        (["accuracy", "--data", "synthetic", "--budgets", "0"], "at least 1"),
    ],
)
def test_bad_input_is_one_line(options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options]) == 2
    said = capsys.readouterr().err.strip()
    assert complaint in said
    assert len(said.splitlines()) == 1
